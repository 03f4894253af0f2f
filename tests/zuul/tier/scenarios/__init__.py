"""List of the scenarios: functions that take a session; `run` knows each by the name of its function."""

from tier.scenarios.bytes import exec_bytes, ext_git
from tier.scenarios.compare import compare
from tier.scenarios.examples import base_job
from tier.scenarios.executor import garbage, optout, stop
from tier.scenarios.job_pods import aborted_job, job_pods
from tier.scenarios.job_roles import job_roles, job_roles_fail
from tier.scenarios.losses import abort, api_restart, late_pod, lost_pod, replaced_binaries, restarted_container
from tier.scenarios.native_job import native_build_set, native_job
from tier.scenarios.roles import roles, roles_without_rsync
from tier.scenarios.same_name_pods import same_name_pods
from tier.scenarios.sandbox import isolation, loading
from tier.scenarios.skipped_tasks import skipped_tasks
from tier.scenarios.stream import stream, stream_fixtures, stream_pod
from tier.scenarios.whole_path import whole_path

SCENARIOS = {
    function.__name__: function
    for function in (
        stream_fixtures,
        stream_pod,
        stream,
        same_name_pods,
        job_pods,
        aborted_job,
        job_roles,
        job_roles_fail,
        lost_pod,
        restarted_container,
        replaced_binaries,
        abort,
        late_pod,
        stop,
        garbage,
        optout,
        loading,
        isolation,
        base_job,
        roles,
        roles_without_rsync,
        ext_git,
        exec_bytes,
        api_restart,
        compare,
        skipped_tasks,
        whole_path,
        native_job,
        native_build_set,
    )
}

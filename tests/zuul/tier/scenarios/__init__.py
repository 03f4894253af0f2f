"""This file owns the list of scenarios: functions of a session, named as `run` is asked for them."""

from tier.scenarios.stream import stream, stream_fixtures, stream_pod

SCENARIOS = {
    function.__name__: function
    for function in (
        stream,
        stream_fixtures,
        stream_pod,
    )
}

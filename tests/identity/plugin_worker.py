"""Runs the connection plugin for each line of standard input: an order of `Plugin.run`.

    plugin_worker.py COLLECTION PODBRIDGE

Prints a JSON object for each line: `status` and `output` of the command, or
`error`, what the plugin said, with `unreachable`.
"""

import json
import os
import sys


def main():
    collection, podbridge = sys.argv[1:]
    os.environ["ANSIBLE_CONNECTION_PLUGINS"] = f"{collection}/plugins/connection"
    from ansible.errors import AnsibleConnectionFailure, AnsibleError
    from ansible.playbook.play_context import PlayContext
    from ansible.plugins.loader import connection_loader

    for line in sys.stdin:
        order = json.loads(line)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["directory"])
        context = PlayContext()
        context.remote_addr = order["variables"].get("ansible_kubectl_pod", "web")
        connection = connection_loader.get("kubectl", context, os.devnull)
        connection.set_options(var_options={"ansible_podbridge_executable": podbridge, **order["variables"]})
        try:
            status, output, _ = connection.exec_command(order["command"])
            answer = {"status": status, "output": output.decode()}
        except AnsibleError as error:
            answer = {"error": str(error), "unreachable": isinstance(error, AnsibleConnectionFailure)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Runs the connection plugin for each line of standard input, `{"environment": …, "token": …}`.

    plugin_worker.py COLLECTION PODBRIDGE

Prints `[asked, text]`: whether the API server was asked and has no such pod, and what the plugin said.
"""

import json
import os
import sys


def main():
    collection, podbridge = sys.argv[1:]
    os.environ["ANSIBLE_CONNECTION_PLUGINS"] = f"{collection}/plugins/connection"
    from ansible.errors import AnsibleError
    from ansible.playbook.play_context import PlayContext
    from ansible.plugins.loader import connection_loader

    for line in sys.stdin:
        order = json.loads(line)
        os.environ.clear()
        os.environ.update(order["environment"])
        context = PlayContext()
        context.remote_addr = "web"
        connection = connection_loader.get("kubectl", context, os.devnull)
        variables = {"ansible_podbridge_executable": podbridge}
        if order["token"]:
            variables["ansible_kubectl_token"] = order["token"]
        connection.set_options(var_options=variables)
        try:
            connection.exec_command("true")
            answer = [False, "the command ran"]
        except AnsibleError as error:
            answer = ["has no pod" in str(error) or "not found" in str(error), str(error)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

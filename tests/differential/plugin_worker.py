"""Answers which sockets the connection plugin names, for the differential test of podbridge (`make test-differential`).

    plugin_worker.py COLLECTION

Each line of standard input is a JSON object: a `target`, and perhaps the `environment` that completes it. Each line of
output is one, too: the target as the plugin `complete`s it, with its `key`; without an environment the identity of the
`slot` whose socket the plugin would look for beside the kubeconfig, null for none. `error` is what the plugin raised.
"""

import json
import os
import sys


def main():
    os.environ["ANSIBLE_CONNECTION_PLUGINS"] = f"{sys.argv[1]}/plugins/connection"
    from ansible.plugins.loader import connection_loader

    plugin = sys.modules[connection_loader.get("kubectl", class_only=True).__module__]
    key_of, identities = plugin.target_key, []
    plugin.target_key = lambda target: identities.append(target) or key_of(target)

    for line in sys.stdin:
        question = json.loads(line)
        identities.clear()
        try:
            if "environment" in question:
                complete = plugin.complete_target(question["target"], question["environment"])
                answer = {"complete": complete, "key": key_of(complete)}
            else:
                plugin.zuul_slot_socket(question["target"])
                answer = {"slot": identities[-1] if identities else None}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer, default=repr), flush=True)


if __name__ == "__main__":
    main()

"""The table: each row is one input, run through stock kubectl and podbridge.

`row(name, expected, ...)`: `expected` is "answered" (the API server says that the pod does not exist) or "failed".
Further fields:

cluster, user, context   fields of the kubeconfig that differ from the usual ones; None removes one
kubeconfig               the whole text instead; a dict has several files
files                    further files by name
env, flags               environment and options of both programs; `KUBECONFIG` in env replaces --kubeconfig
server                   kind of API server: a certificate of `Authority` in parity.py, or http, token, tls12, by-...
host, prefix             its name in the URL, and the path of its API
proxy                    kind of proxy: http, https, login, socks5, socks5-login, or the status with which it refuses
says                     words that podbridge must say
runs                     how often podbridge may run the credential plugin
edit                     a text in the kubeconfig, and what replaces it
any_says                 one of the words of `says` is enough
in_cluster               a service account is mounted
since                    the first version of kubectl for which the row is true; older ones do otherwise
pod                      the word for the pod; objects named `web` exist and have the pod `web-0`
selector                 the selector of these objects; their kind decides where it stands
pods_after               seconds after the first list of pods until they have the pod
connect_timeout          seconds, for podbridge
In texts {url} {host} {port} {dir} {proxy} {path} are filled in, and {usual} is the usual kubeconfig, {json} the same
in JSON. {ca} and the like are paths of PEM files (`Authority` in parity.py), {ca:data} their base64, {ca:pem} and
{ca:crlf} their text.
"""

ROWS = []


def row(name, expected, **fields):
    ROWS.append({"name": name, "expected": expected, **fields})


ok, fail = "answered", "failed"

# Servers
row("https, the usual", ok)
row("a slash at the end", ok, cluster={"server": "{url}/"})
row("scheme in upper case", ok, cluster={"server": "HTTPS://{host}:{port}"})
row("a path", ok, prefix="/k8s/clusters/c-1", cluster={"server": "{url}/k8s/clusters/c-1"})
row("a path with a slash at the end", ok, prefix="/k8s", cluster={"server": "{url}/k8s/"})
row("a query is dropped", ok, prefix="/k8s", cluster={"server": "{url}/k8s?x=y"})
row("no scheme, address", ok, server="http", cluster={"server": "{host}:{port}", "certificate-authority": None})
row("no scheme, name", ok, server="http", host="localhost", cluster={"server": "{host}:{port}"})
row("no scheme with a path", fail, server="http", cluster={"server": "{host}:{port}/k8s"})
row("http sends no token", ok, server="http", cluster={"server": "http://{host}:{port}"})
row("http takes impersonation", ok, server="http", cluster={"server": "{host}:{port}"}, user={"as": "ci"})
row("IPv6", ok, host="::1", cluster={"server": "https://[::1]:{port}"})
row("IPv6 without scheme", ok, server="http", host="::1", cluster={"server": "[::1]:{port}"})
row("no TLS on an https port", fail, server="http", cluster={"server": "https://{host}:{port}"}, says=["TLS"])
row("TLS on an http port", fail, cluster={"server": "http://{host}:{port}"})
row("a port that is no number", fail, cluster={"server": "https://{host}:port"}, says=["port"])
row("a port out of range", fail, cluster={"server": "https://{host}:99999"})
row("another scheme", fail, cluster={"server": "ftp://{host}:{port}"})
row("white space in the host", fail, cluster={"server": "https://a b:{port}"})
row("nobody listens", fail, cluster={"server": "https://127.0.0.1:1"}, says=["127.0.0.1:1"])
row("an empty server", fail, cluster={"server": ""})
row("credentials in the URL beside a token", ok, cluster={"server": "https://me:s%40cret@{host}:{port}"})
row(
    "credentials in the URL beside others",
    ok,
    cluster={"server": "https://me:s%40cret@{host}:{port}"},
    user={"token": None, "username": "x"},
)
row("credentials in the URL, http", ok, server="http", cluster={"server": "http://me:s%40cret@{host}:{port}"})
row("KUBERNETES_MASTER", ok, server="http", env={"KUBERNETES_MASTER": "{host}:{port}"}, cluster={"server": None})

# Certificates of the server
row("authority as data", ok, cluster={"certificate-authority": None, "certificate-authority-data": "{ca:data}"})
row("authority with CRLF", ok, files={"x.crt": "{ca:crlf}"}, cluster={"certificate-authority": "{dir}/x.crt"})
row(
    "a bundle with comments",
    ok,
    files={"x.crt": "# no PEM\n{other:pem}junk\n{ca:pem}"},
    cluster={"certificate-authority": "x.crt"},
)
row("data in several lines", ok, cluster={"certificate-authority": None, "certificate-authority-data": "{ca:lines}"})
row("authority and data", fail, cluster={"certificate-authority-data": "{ca:data}"})
row("another authority", fail, cluster={"certificate-authority": "{other}"})
row("no certificate in the authority", fail, files={"x": "hello"}, cluster={"certificate-authority": "x"})
row("an authority that is absent", fail, cluster={"certificate-authority": "none"}, says=["none"])
row("no authority, none of the host", fail, cluster={"certificate-authority": None})
row("SSL_CERT_FILE", ok, cluster={"certificate-authority": None}, env={"SSL_CERT_FILE": "{ca}"})
row("an expired authority", fail, server="by-expired", cluster={"certificate-authority": "{expired-ca}"})
row("an authority of version 1", ok, server="by-v1", cluster={"certificate-authority": "{v1-ca}"})
row("the server's own certificate, CA:TRUE", ok, server="self-ca", cluster={"certificate-authority": "{self-ca}"})
row("the server's own certificate, CA:FALSE", ok, server="self", cluster={"certificate-authority": "{self}"})
row("its own certificate, another name", fail, server="self-name", cluster={"certificate-authority": "{self-name}"})
row("its own certificate, expired", fail, server="self-expired", cluster={"certificate-authority": "{self-expired}"})
row("its own certificate, for clients", fail, server="self-usage", cluster={"certificate-authority": "{self-usage}"})
row("a server that is an authority", ok, server="leaf-ca")
row("a leaf as authority", ok, server="server", cluster={"certificate-authority": "{server}"})
row("a signer that is no authority", fail, server="by-leaf", cluster={"certificate-authority": "{signer}"})
row("an intermediate certificate", ok, server="by-intermediate")
row("a missing intermediate", fail, server="no-intermediate")
row("the intermediate as authority", ok, server="no-intermediate", cluster={"certificate-authority": "{intermediate}"})
row("a server that is an authority, by an intermediate", ok, server="leaf-ca-deep")
row("an expired server", fail, server="expired", says=["expired"])
row("a server of tomorrow", fail, server="future")
row("a server with another name", fail, server="name")
row("a common name alone", fail, server="common-name")
row("a server for clients", fail, server="usage")
row("a server of version 1", fail, server="v1")
row("RSA", ok, server="rsa")
row("P-384", ok, server="p384")
row("Ed25519", ok, server="ed25519")
row("TLS 1.2", ok, server="tls12")
row("TLS 1.2 with RSA", ok, server="tls12-rsa")
row("tls-server-name", ok, server="name", cluster={"tls-server-name": "api.other.test"})
row("a wrong tls-server-name", fail, cluster={"tls-server-name": "api.other.test"})
row(
    "--server drops the file's tls-server-name",
    ok,
    cluster={"server": "https://127.0.0.1:1", "tls-server-name": "x"},
    flags=["--server={url}"],
)
row("--tls-server-name", ok, server="name", flags=["--tls-server-name=api.other.test"])
insecure = {"insecure-skip-tls-verify": True, "certificate-authority": None}
row("insecure", ok, server="name", cluster=insecure)
row("insecure, version 1", ok, server="v1", cluster=insecure)
row("insecure, expired", ok, server="expired", cluster=insecure)
row("insecure and an authority", fail, cluster={"insecure-skip-tls-verify": True}, says=["insecure"])
row("--insecure-skip-tls-verify drops the authority", ok, server="name", flags=["--insecure-skip-tls-verify"])
row(
    "--certificate-authority drops the file's insecure",
    fail,
    server="name",
    cluster=insecure,
    flags=["--certificate-authority={ca}"],
)
row("insecure: yes", ok, kubeconfig="{usual}", edit=("certificate-authority: {ca}", "insecure-skip-tls-verify: yes"))

# Tokens and passwords
row("a token", ok, server="token")
row("a wrong token", fail, server="token", user={"token": "wrong"})
row("a token with a line break", fail, user={"token": "t0ken\n"})
row("tokenFile", ok, files={"t": "from-file"}, user={"token": None, "tokenFile": "t"})
row("tokenFile with a line break", ok, files={"t": "from-file\n"}, user={"token": None, "tokenFile": "{dir}/t"})
row("tokenFile with CRLF and spaces", ok, files={"t": " from-file \r\n"}, user={"token": None, "tokenFile": "t"})
row("tokenFile beside a token", ok, files={"t": "from-file\n"}, user={"tokenFile": "t"})
row("an absent tokenFile beside a token", ok, user={"tokenFile": "none"})
row("an absent tokenFile", fail, user={"token": None, "tokenFile": "none"}, says=["none"])
row("an empty tokenFile", fail, files={"t": "\n"}, user={"token": None, "tokenFile": "t"})
row("--token", ok, flags=["--token=flag"])
row(
    "--token beside a tokenFile",
    ok,
    files={"t": "from-file\n"},
    user={"token": None, "tokenFile": "t"},
    flags=["--token=flag"],
)
row("a number as token", fail, kubeconfig="{usual}", edit=("token: t0ken", "token: 12345"))
row("Basic", ok, user={"token": None, "username": "me", "password": "p:w@%41"})
row("Basic without password", ok, user={"token": None, "username": "me"})
row("Basic and a token", fail, user={"username": "me", "password": "pw"})
row("--username and --password", ok, user={"token": None}, flags=["--username=me", "--password=pw"])

# Client certificates
files = {"client-certificate": "{client}", "client-key": "{client-key}"}
data = {"client-certificate-data": "{client:data}", "client-key-data": "{client-key:data}"}
none = {"token": None}
row("a client certificate", ok, user=none | files)
row("a client certificate as data", ok, user=none | data)
row("a client certificate and a token", ok, user=files)
row("a client certificate, TLS 1.2", ok, server="tls12", user=none | files)
row("a client certificate of version 1", ok, user=none | files | {"client-certificate": "{client-v1}"})
row(
    "a client certificate of version 1, TLS 1.2",
    ok,
    server="tls12",
    user=none | files | {"client-certificate": "{client-v1}"},
)
row(
    "--client-certificate of version 1",
    ok,
    user=none,
    flags=["--client-certificate={client-v1}", "--client-key={client-key}"],
)
row("client certificate with CRLF", ok, files={"c": "{client:crlf}"}, user=none | files | {"client-certificate": "c"})
row(
    "an RSA key in PKCS 1",
    ok,
    user={"token": None, "client-certificate": "{client-rsa}", "client-key": "{client-rsa-pkcs1}"},
)
row("an EC key with its parameters", ok, user=none | files | {"client-key": "{client-key-sec1}"})
row("a client key of another certificate", fail, user=none | files | {"client-key": "{other-key}"})
row("a client certificate without key", fail, user={"token": None, "client-certificate": "{client}"})
row(
    "certificate and key in one file",
    ok,
    user={"token": None, "client-certificate": "{client-both}", "client-key": "{client-both}"},
)
row("client certificate as file and data", fail, user=files | data)
row("an encrypted key", fail, user=none | files | {"client-key": "{client-key-encrypted}"}, says=["encrypted"])
row("an unreadable client key", fail, user=none | files | {"client-key": "none"}, says=["none"])
row("--token keeps the client certificate", ok, user=none | files, flags=["--token=flag"])

# Impersonation
row("as", ok, user={"as": "ci", "as-groups": ["a", "b"], "as-uid": "7"})
row("as with extra values", ok, user={"as": "ci", "as-user-extra": {"example.com/scope": ["x"]}})
row("groups without a user", fail, user={"as-groups": ["a"]})
row("--as", ok, user={"as": "file"}, flags=["--as=flag", "--as-group=g", "--as-group=h"])
row("--as-uid", ok, flags=["--as=flag", "--as-uid=9"])
row("--as-group alone", fail, flags=["--as-group=g"])


# Credential plugins
def plugin(script="print token", mode="Never", version="v1", **fields):
    return {
        "token": None,
        "exec": {
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "command": "{dir}/plugin",
            "args": [script],
            "interactiveMode": mode,
            **fields,
        },
    }


row("a plugin", ok, user=plugin(), runs=1)
row("a plugin of v1beta1", ok, user=plugin(version="v1beta1"))
row("a plugin of v1beta1 without interactiveMode", ok, user=plugin(version="v1beta1", mode=None))
row("a plugin of v1 without interactiveMode", fail, user=plugin(mode=None), says=["interactiveMode"])
row("a plugin of v1alpha1", fail, user=plugin(version="v1alpha1"), since="1.24")
row("a plugin, IfAvailable", ok, user=plugin(mode="IfAvailable"))
row("a plugin, Always", fail, user=plugin(mode="Always"), says=["terminal"])
row("a plugin with cluster information", ok, user=plugin(provideClusterInfo=True))
row(
    "a plugin with the cluster's extension",
    ok,
    user=plugin(provideClusterInfo=True),
    cluster={"extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]},
)
row("a plugin with variables", ok, user=plugin("print variable", env=[{"name": "WHO", "value": "me"}]))
row("a plugin sees the caller's variables", ok, user=plugin("print variable"), env={"WHO": "caller"})
row("a plugin that expires", ok, user=plugin("print expired"))
row("a plugin with a certificate", ok, user=plugin("print certificate"))
row("a plugin with a certificate and a token", ok, user=plugin("print both"))
row("a plugin in PATH", ok, user=plugin(command="plugin"), env={"PATH": "{dir}:{path}"})
row("a plugin by a relative path", ok, user=plugin(command="./plugin"))
row("a plugin that fails", fail, user=plugin("fail"), says=["run: sso login", "3"])
row(
    "a plugin that is absent",
    fail,
    user=plugin(command="no-such-login", installHint="brew install it"),
    says=["no-such-login", "brew install it"],
)
row("a plugin that prints rubbish", fail, user=plugin("print rubbish"))
row("a plugin of another version", fail, user=plugin("print version"), says=["version"])
row("a plugin that prints YAML", ok, user=plugin("print yaml"))
row("a plugin that prints nothing", fail, user=plugin("nothing"))
row("a plugin with a key alone", fail, user=plugin("print half"))
row("a plugin beside a token", ok, user=plugin("fail") | {"token": "t0ken"})
row("a plugin beside a client certificate", ok, user=plugin("fail") | files, since="1.27")
row("a plugin and --token", ok, user=plugin("fail"), flags=["--token=flag"])
row(
    "a plugin that the server refuses", fail, server="token", user=plugin(), says=["401", "Unauthorized"], any_says=True
)
row("an unknown auth-provider", fail, user={"token": None, "auth-provider": {"name": "gcp"}}, says=["gcp"])

# Contexts and files
row("the namespace of the context", ok, context={"namespace": "ci"})
row("--namespace", ok, context={"namespace": "ci"}, flags=["--namespace=other"])
row("a context without namespace", ok, context={"namespace": None})
row("another context", ok, flags=["--context=second"])
row("an unknown context", fail, flags=["--context=none"], says=["none"])
row("a context whose cluster is absent", fail, context={"cluster": "none"})
row("--cluster and --user", ok, context={"cluster": "none", "user": "none"}, flags=["--cluster=c", "--user=u"])
row("an unknown --user", fail, flags=["--user=none"], says=["none"])
row("--server without a kubeconfig", ok, server="http", kubeconfig={}, flags=["--server={host}:{port}"])
row("KUBECONFIG", ok, env={"KUBECONFIG": "{dir}/config"})
row("HOME", ok, env={"HOME": "{dir}/home", "KUBECONFIG": ""}, kubeconfig={"home/.kube/config": "{usual}"})
row(
    "KUBECONFIG that is absent does not fall back",
    fail,
    env={"HOME": "{dir}/home", "KUBECONFIG": "{dir}/none"},
    kubeconfig={"home/.kube/config": "{usual}"},
)
row(
    "the first file wins",
    ok,
    env={"KUBECONFIG": "{dir}/a:{dir}/config"},
    kubeconfig={"config": "{usual}", "a": "users: [{{name: u, user: {{token: first}}}}]"},
)
row(
    "absent and empty files of a list",
    ok,
    env={"KUBECONFIG": ":{dir}/none::{dir}/empty:{dir}/config:{dir}/config:"},
    kubeconfig={"config": "{usual}", "empty": ""},
)
row(
    "the current context of the first file",
    ok,
    env={"KUBECONFIG": "{dir}/a:{dir}/config"},
    kubeconfig={"config": "{usual}", "a": "current-context: second"},
)
row(
    "relative paths per file",
    ok,
    env={"KUBECONFIG": "{dir}/config:{dir}/sub/b"},
    kubeconfig={"config": "{usual}", "sub/b": "users: [{{name: r, user: {{tokenFile: t}}}}]"},
    files={"sub/t": "sub", "t": "wrong"},
    flags=["--user=r"],
)
row(
    "a damaged file in a list",
    fail,
    env={"KUBECONFIG": "{dir}/config:{dir}/b"},
    kubeconfig={"config": "{usual}", "b": "users: {{"},
)
row("a colon in --kubeconfig", ok, kubeconfig={"a:b": "{usual}"}, kubeconfig_file="a:b")
row("--kubeconfig that is absent", fail, kubeconfig_file="none", says=["none"])
row("--kubeconfig before KUBECONFIG", ok, kubeconfig_file="config", env={"KUBECONFIG": "{dir}/none"})
row("a directory as kubeconfig", fail, kubeconfig={"config/x": ""}, kubeconfig_file="config")
row("an empty kubeconfig", fail, kubeconfig="")
row("no YAML", fail, kubeconfig="clusters: {{")
row("another kind", fail, kubeconfig="{usual}", edit=("kind: Config", "kind: Pod"))
row("another apiVersion", fail, kubeconfig="{usual}", edit=("apiVersion: v1", "apiVersion: v7"))
row("unknown fields", ok, kubeconfig="{usual}", edit=("kind: Config", "kind: Config\nodd: {{a: [1]}}"))
row("a name that stands twice", fail, kubeconfig="{usual}", edit=("users:", "users:\n- name: u\n  user: {{}}"))
row("null lists", ok, kubeconfig="{usual}", edit=("kind: Config", "kind: Config\npreferences: null\nextensions: null"))
row("JSON with tabs", ok, kubeconfig="{json}")
row("a document mark", ok, kubeconfig="---\n{usual}")
row("--request-timeout", ok, flags=["--request-timeout=5s"])
row("CRLF in a kubeconfig", ok, kubeconfig="{usual}", edit=("\n", "\r\n"))
row("a byte order mark", ok, kubeconfig="\ufeff{usual}")
row("an anchor", fail, kubeconfig="{usual}", edit=("token: t0ken", "token: &t t0ken\n    username: *t"))
row("a merge key", ok, kubeconfig="{usual}", edit=("token: t0ken", "<<: {{token: merged}}"))
row("a block as token", fail, kubeconfig="{usual}", edit=("token: t0ken", "token: |\n      t0ken"))
row("a folded token", ok, kubeconfig="{usual}", edit=("token: t0ken", "token: >-\n      t0ken"))
row("a quoted token", ok, kubeconfig="{usual}", edit=("token: t0ken", "token: 't0ken'"))
row("a tagged token", ok, kubeconfig="{usual}", edit=("token: t0ken", "token: !!str 12345"))
row("a null token", ok, kubeconfig="{usual}", edit=("token: t0ken", "token: ~\n    username: me"))
row("a tab as indent", fail, kubeconfig="{usual}", edit=("  user:", "\tuser:"))
row("two documents", ok, kubeconfig="{usual}---\n{usual}")
row("an end mark", ok, kubeconfig="{usual}...\n")
row("comments", ok, kubeconfig="# before\n{usual}# after\n")
row("a field in another case", fail, kubeconfig="{usual}", edit=("current-context:", "Current-Context:"))
row("a list as user", fail, kubeconfig="{usual}", edit=("token: t0ken", "token: [a]"))
row(
    "a context with a name as of EKS",
    ok,
    flags=["--context=arn:aws:eks:eu-1:12:cluster/x"],
    kubeconfig="{usual}",
    edit=("name: second\n  context", "name: arn:aws:eks:eu-1:12:cluster/x\n  context"),
)
row("an empty context name", fail, flags=["--context= "])
row("an empty --context", ok, flags=["--context="])
row("an empty --server", ok, flags=["--server="])
row("an empty --as", ok, flags=["--as="])
row("an empty --token", ok, flags=["--token="])
row("an empty --kubeconfig", ok, flags=["--kubeconfig="], env={"KUBECONFIG": "{dir}/config"})
row("an empty --namespace", ok, context={"namespace": "ci"}, flags=["--namespace="])
row(
    "an empty KUBECONFIG", ok, env={"HOME": "{dir}/home", "KUBECONFIG": ""}, kubeconfig={"home/.kube/config": "{usual}"}
)
row("a tilde in KUBECONFIG", fail, env={"HOME": "{dir}", "KUBECONFIG": "~/config"}, kubeconfig={"config": "{usual}"})
row("a token file that is a directory", fail, user={"token": None, "tokenFile": "{dir}"})
row("an authority that is a directory", fail, cluster={"certificate-authority": "{dir}"})
row("white space around the server", fail, cluster={"server": " {url}"})
row("a name of a namespace that cannot be", ok, context={"namespace": "A_b"})
row("data that is no base64", fail, cluster={"certificate-authority": None, "certificate-authority-data": "%%%"})
row("an empty authority as data", fail, cluster={"certificate-authority": None, "certificate-authority-data": ""})

# Proxies. 0.0.0.0 leads to loopback too, and no proxy rule exempts it.
away = {"server": "https://api.parity.test:{port}"}
near = {"server": "https://0.0.0.0:{port}"}
https = "http://{proxy}"
row("proxy-url", ok, proxy="http", cluster={"proxy-url": https})
row("proxy-url, a name", ok, proxy="http", cluster=away | {"proxy-url": https})
row(
    "proxy-url, http server",
    ok,
    server="http",
    proxy="http",
    cluster={"server": "http://api.parity.test:{port}", "proxy-url": https},
)
row("proxy-url with a login", ok, proxy="login", cluster={"proxy-url": "http://u:p%40ss@{proxy}"})
row(
    "proxy-url with a wrong login",
    fail,
    proxy="login",
    cluster={"proxy-url": "http://u:no@{proxy}"},
    says=["407", "proxy"],
)
row("proxy-url without its login", fail, proxy="login", cluster={"proxy-url": https}, says=["407", "proxy"])
row(
    "http server, proxy with a login",
    ok,
    server="http",
    proxy="login",
    cluster={"server": "http://api.parity.test:{port}", "proxy-url": "http://u:p%40ss@{proxy}"},
)
row("a proxy that forbids", fail, proxy="403", cluster={"proxy-url": https}, says=["403", "proxy"])
row("a proxy that fails", fail, proxy="502", cluster={"proxy-url": https}, says=["502", "proxy"])
row("a proxy that is absent", fail, cluster={"proxy-url": "http://127.0.0.1:1"}, says=["proxy", "127.0.0.1:1"])
row("an https proxy", ok, proxy="https", cluster={"proxy-url": "https://{proxy}"})
row("an https proxy without TLS", fail, proxy="http", cluster={"proxy-url": "https://{proxy}"}, says=["proxy"])
row("socks5", ok, proxy="socks5", cluster=away | {"proxy-url": "socks5://{proxy}"})
row("socks5, an address", ok, proxy="socks5", cluster={"proxy-url": "socks5://{proxy}"})
row("socks5 with a login", ok, proxy="socks5-login", cluster=away | {"proxy-url": "socks5://u:p%40ss@{proxy}"})
row(
    "socks5 with a wrong login",
    fail,
    proxy="socks5-login",
    cluster=away | {"proxy-url": "socks5://u:no@{proxy}"},
    says=["proxy"],
)
row("proxy-url without scheme", fail, proxy="http", cluster={"proxy-url": "{proxy}"}, says=["proxy-url"])
row("proxy-url of another scheme", fail, proxy="http", cluster={"proxy-url": "ftp://{proxy}"}, says=["proxy-url"])
row("HTTPS_PROXY", ok, proxy="http", cluster=away, env={"HTTPS_PROXY": https})
row("https_proxy", ok, proxy="http", cluster=away, env={"https_proxy": https})
row("HTTPS_PROXY with a login", ok, proxy="login", cluster=away, env={"HTTPS_PROXY": "http://u:p%40ss@{proxy}"})
row("HTTPS_PROXY without scheme", ok, proxy="http", cluster=away, env={"HTTPS_PROXY": "{proxy}"})
row("HTTPS_PROXY by socks5", ok, proxy="socks5", cluster=away, env={"HTTPS_PROXY": "socks5://{proxy}"})
row("HTTPS_PROXY that is absent", fail, cluster=away, env={"HTTPS_PROXY": "http://127.0.0.1:1"}, says=["proxy"])
row("HTTPS_PROXY refuses", fail, proxy="403", cluster=away, env={"HTTPS_PROXY": https}, says=["403", "HTTPS_PROXY"])
row("loopback needs no proxy", ok, proxy="403", env={"HTTPS_PROXY": https})
row("localhost needs no proxy", ok, proxy="403", host="localhost", env={"HTTPS_PROXY": https})
row("an address that a proxy serves", ok, proxy="http", cluster=near, env={"HTTPS_PROXY": https})
row("HTTP_PROXY is not for https", ok, proxy="403", cluster=near, env={"HTTP_PROXY": https})
row("ALL_PROXY does not count", ok, proxy="403", cluster=near, env={"ALL_PROXY": https})
row(
    "HTTP_PROXY",
    ok,
    server="http",
    proxy="http",
    cluster={"server": "http://0.0.0.0:{port}"},
    env={"HTTP_PROXY": https},
)
for listed, used in [
    ("0.0.0.0", False),
    ("0.0.0.0/8", False),
    ("10.0.0.0/8", True),
    ("0.0.0.0:{port}", False),
    ("0.0.0.0:1", True),
    ("*", False),
    ("other,0.0.0.0", False),
    (" other , 0.0.0.0 ", False),
    ("0.0.0", True),
]:
    kind = "http" if used else "403"
    row(f"NO_PROXY={listed}", ok, proxy=kind, cluster=near, env={"HTTPS_PROXY": https, "NO_PROXY": listed})
for listed, used in [
    (".parity.test", False),
    ("parity.test", False),
    ("*.parity.test", False),
    ("api.parity.test", False),
    ("API.parity.test:{port}", False),
    ("api.parity.test:1", True),
    ("i.parity.test", True),
    ("other", True),
    (".api.parity.test", True),
]:
    row(
        f"NO_PROXY={listed}",
        ok if used else fail,
        proxy="http",
        cluster=away,
        env={"HTTPS_PROXY": https, "no_proxy": listed},
    )
row("proxy-url does not ask NO_PROXY", ok, proxy="http", cluster=near | {"proxy-url": https}, env={"NO_PROXY": "*"})

# In a cluster: a service account is mounted where Kubernetes mounts it.
row(
    "in a cluster",
    ok,
    kubeconfig={},
    in_cluster=True,
    env={"KUBERNETES_SERVICE_HOST": "{host}", "KUBERNETES_SERVICE_PORT": "{port}"},
)
row(
    "in a cluster, POD_NAMESPACE",
    ok,
    kubeconfig={},
    in_cluster=True,
    env={"KUBERNETES_SERVICE_HOST": "{host}", "KUBERNETES_SERVICE_PORT": "{port}", "POD_NAMESPACE": "own"},
)
row(
    "in a cluster, --namespace and --token",
    ok,
    kubeconfig={},
    in_cluster=True,
    env={"KUBERNETES_SERVICE_HOST": "{host}", "KUBERNETES_SERVICE_PORT": "{port}"},
    flags=["--namespace=n", "--token=flag"],
)
row(
    "in a cluster, a kubeconfig comes first",
    ok,
    in_cluster=True,
    context={"namespace": None},
    env={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"},
)

# Words for a pod. Who answers knows no pod: `web-0` is asked for only if the object was understood.
for word in [
    *("pod/web", "po/web", "pods/web", "Pod/web", "PODS/web", "pod./web", "pods.v1./web", "pod.v1./web", "po.v1./web"),
    *(
        "deploy/web",
        "deployment/web",
        "deployments/web",
        "Deployment/web",
        "deployments.apps/web",
        "deployment.apps/web",
    ),
    *(
        "deploy.apps/web",
        "deployments.v1.apps/web",
        "deployment.v1.apps/web",
        "deploy.v1.apps/web",
        "deployment.ap/web",
    ),
    *("rs/web", "replicaset/web", "replicasets.apps/web", "sts/web", "statefulset/web", "statefulsets.v1.apps/web"),
    *("ds/web", "daemonset/web", "daemonsets/web", "job/web", "jobs/web", "job.batch/web", "jobs.v1.batch/web"),
    *("rc/web", "replicationcontroller/web", "replicationcontrollers/web", "svc/web", "service/web", "services/web"),
    *("service.v1./web", "ReplicaSets/web", "Job.batch/web", "deployments.v1./web", "job.b/web"),
]:
    row(f"exec {word}", ok, pod=word)
for word in [
    *("pod.v1/web", "pods.v1/web", "pod.apps/web", "deployment.batch/web", "deployments.v2.apps/web", "deploy.v1/web"),
    *("PO/web", "Svc/web", "deployment.APPS/web", "deployments.v1.ap/web", ".apps/web", "pods.v2./web"),
    *("cm/web", "cronjob/web", "cj/web", "endpoints/web", "nosuch/web", "deploy/absent", "svc/absent", "job/absent"),
    *("deploy/", "/web", "deploy/web/x", "deploy,svc/web", "deploy/web,x", "all/web"),
]:
    row(f"exec {word}, refused", fail, pod=word)
row("an object without a selector", fail, pod="svc/web", selector={})
row("an object without pods", fail, pod="deploy/web", selector={"app": "none"}, flags=["--pod-running-timeout=1s"])
row("pods that come later", ok, pod="deploy/web", pods_after=1.5, connect_timeout=10)
row(
    "--pod-running-timeout, longer than the connect timeout",
    ok,
    pod="deploy/web",
    pods_after=2,
    connect_timeout=1,
    flags=["--pod-running-timeout=10s"],
)
row(
    "--pod-running-timeout, shorter than the connect timeout",
    fail,
    pod="deploy/web",
    pods_after=6,
    flags=["--pod-running-timeout=1s"],
    says=["web"],
)
for value, expected in [
    *(("2m", ok), ("1m30s", ok), ("1.5h", ok), ("500ms", ok), (".5s", ok), ("1m0.5s", ok), ("+5s", ok), ("1us", ok)),
    *(("1\u00b5s", ok), ("1h1m1s1ms1us1ns", ok)),
    *(("0", fail), ("0s", fail), ("-5s", fail), ("5", fail), ("soon", fail), ("", fail), ("5 s", fail), ("5d", fail)),
]:
    row(f"--pod-running-timeout={value}", expected, flags=[f"--pod-running-timeout={value}"])
for value, expected in [
    *(("0", ok), ("5", ok), ("5s", ok), ("1m", ok), ("1.5m", ok), ("0s", ok)),
    *(("soon", fail), ("5d", fail), ("5 s", fail), ("-5", fail)),
]:
    row(f"--request-timeout={value}", expected, flags=[f"--request-timeout={value}"])
# Options of `kubectl exec` and global ones, as extra_args have them.
for words in [
    *(["-i"], ["--stdin"], ["--stdin=false"], ["-t"], ["--tty"], ["-q"], ["--quiet"], ["-it"], ["-qit"], ["-v=4"]),
    *(["-v4"], ["-v", "4"], ["--v=4"], ["--vmodule=x=1"], ["--cache-dir={dir}/cache"]),
    *(["--match-server-version=false"], ["--warnings-as-errors"], ["--profile=none"], ["--profile-output=p.pprof"]),
    *(["--log-flush-frequency=5s"], ["-nother"], ["-n", "other"], ["-n=other"], ["-s={url}"], ["-s{url}"]),
    *(["--server", "{url}"], ["--namespace", "other"], ["--token", "flag"]),
]:
    row(f"exec {' '.join(words)}", ok, flags=words)
row("exec --disable-compression", ok, flags=["--disable-compression"], since="1.27")
row("exec deploy.v9.apps/web", ok, pod="deploy.v9.apps/web", since="1.29")
row("--as-user-extra", ok, flags=["--as=ci", "--as-user-extra=a=b", "--as-user-extra=a=c"], since="1.35")
for words in [["--nosuch"], ["-z"], ["-n"], ["--stdin=maybe"]]:
    row(f"exec {' '.join(words)}, refused", fail, flags=words)

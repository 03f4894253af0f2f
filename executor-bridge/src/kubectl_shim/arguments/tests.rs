//! Command lines of kubectl, and how the shim parses them.

use std::os::unix::ffi::OsStringExt as _;

use crate::kubectl_shim::arguments::*;

fn parsed(line: &str) -> ParsedCommand {
    parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
}

/// Returns kubeconfig, context, namespace and name, with `-` for an absent one.
fn describe(pod: &PodReference) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or("-".into());
    let kubeconfig = pod.kubeconfig.as_ref().map(|path| path.display().to_string());
    format!(
        "{} {} {} {}",
        text(&kubeconfig),
        text(&pod.context),
        text(&pod.namespace),
        pod.name
    )
}

fn exec(line: &str) -> (String, ExecArguments) {
    match parsed(line) {
        ParsedCommand::Exec { pod, exec } => (describe(&pod), exec),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_port_forward_of_zuul_is_parsed() {
    let ports = Ports {
        console: 40001,
        windows: 40002,
    };
    for (line, expected) in [
        (
            "--kubeconfig=/job/kube/config --context=ctx -n ns port-forward pod/web 40001:19885 40002:19886",
            "/job/kube/config ctx ns web",
        ),
        ("port-forward web 40001:19885 40002:19886", "- - - web"),
        ("port-forward pods/web 40001:19885 -n=ns 40002:19886", "- - ns web"),
        (
            "-nns port-forward --kubeconfig k pod/web 40001:19885 40002:19886 --context ctx",
            "k ctx ns web",
        ),
    ] {
        match parsed(line) {
            ParsedCommand::PortForward { pod, ports: found } => {
                assert_eq!((describe(&pod).as_str(), found), (expected, ports), "{line}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn exec_accepts_every_form_of_the_pod_and_its_flags() {
    for (line, expected) in [
        ("exec web -- id", "- - - web"),
        ("exec pod/web -- id", "- - - web"),
        ("exec pods/web -- id", "- - - web"),
        ("exec po/web.x-1 -- id", "- - - web.x-1"),
        ("exec -n ns web -- id", "- - ns web"),
        ("exec -nns web -- id", "- - ns web"),
        ("-n=ns exec web -- id", "- - ns web"),
        ("exec --namespace=ns web -- id", "- - ns web"),
        ("exec web --namespace ns -- id", "- - ns web"),
        ("--context ctx --kubeconfig=/k exec -n a web -n b -- id", "/k ctx b web"),
        ("exec --context=a=b web -- id", "- a=b - web"),
    ] {
        assert_eq!(exec(line).0, expected, "{line}");
    }
}

#[test]
fn the_flags_of_exec_are_parsed() {
    let switches = |line: &str| {
        let (_, exec) = exec(line);
        let letters = [(exec.stdin, 'i'), (exec.tty, 't'), (exec.quiet, 'q')];
        let on: String = letters
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, letter)| *letter)
            .collect();
        (on, exec.container.unwrap_or_default())
    };
    for (line, on, container) in [
        ("exec web -- id", "", ""),
        ("exec -i web -- id", "i", ""),
        ("exec -it web -- id", "it", ""),
        ("exec -tiq web -- id", "itq", ""),
        ("exec --stdin --tty --quiet web -- id", "itq", ""),
        ("exec --stdin=true --tty=false web -- id", "i", ""),
        ("exec -i --stdin=false web -- id", "", ""),
        ("exec -c main web -- id", "", "main"),
        ("exec -cmain web -- id", "", "main"),
        ("exec -c=main web -- id", "", "main"),
        ("exec --container main web -- id", "", "main"),
        ("exec --container=main web -- id", "", "main"),
        ("exec -itc main web -- id", "it", "main"),
        ("exec -itcmain web -- id", "it", "main"),
        ("exec -iqc=main web -- id", "iq", "main"),
        ("exec web -i -c main -- id -t", "i", "main"),
    ] {
        assert_eq!(switches(line), (on.into(), container.into()), "{line}");
    }
}

#[test]
fn the_command_of_exec_is_kept_unchanged() {
    for (line, command) in [
        ("exec web -- ls -l --all", "ls -l --all"),
        ("exec web -- a -- b", "a -- b"),
        ("exec web -- -x", "-x"),
        // The old form, without `--`.
        (
            "exec zuultest -c sidecar -i /usr/bin/git-receive-pack /zuul/glance",
            "/usr/bin/git-receive-pack /zuul/glance",
        ),
        ("exec web cat -i -", "cat -"),
        ("exec -i web -- sh -c x", "sh -c x"),
    ] {
        let words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        assert_eq!(exec(line).1.command, words, "{line}");
    }
    let bytes = OsString::from_vec(b"\xff\x01".to_vec());
    for form in [&["exec", "web", "--"][..], &["exec", "web"]] {
        let mut arguments: Vec<OsString> = form.iter().map(OsString::from).collect();
        arguments.extend([bytes.clone(), OsString::new()]);
        let ParsedCommand::Exec { exec, .. } = parse(&arguments) else {
            panic!("{form:?}");
        };
        assert_eq!(exec.command, [bytes.clone(), OsString::new()]);
    }
}

#[test]
fn unknown_command_lines_are_left_to_the_next_kubectl() {
    for line in [
        "",
        "version",
        "get pods",
        "--help",
        "exec --help",
        "exec web",
        "exec web --",
        "exec",
        "exec -- web id",
        "exec web id -- x",
        "exec deploy/web -- id",
        "exec pod/web/x -- id",
        "exec pod/ -- id",
        "exec Web -- id",
        "exec web ls -l",
        "exec -f pod.yaml -- id",
        "exec --pod-running-timeout=1m web -- id",
        "exec --as=admin web -- id",
        "exec --server=https://x web -- id",
        "exec --stdin=maybe web -- id",
        "exec -i=true web -- id",
        "exec -ix web -- id",
        "exec -c",
        "exec --container= web -- id",
        "exec -n= web -- id",
        "exec --namespace",
        "exec -v=9 web -- id",
        "-i exec web -- id",
        "-c main exec web -- id",
        "--stdin exec web -- id",
        "-- exec web id",
        "EXEC web -- id",
        "port-forward pod/web 1:19885",
        "port-forward pod/web 1:19886 2:19885",
        "port-forward pod/web 1:19885 2:19886 3:80",
        "port-forward pod/web 19885 19886",
        "port-forward pod/web :19885 :19886",
        "port-forward pod/web 0:19885 2:19886",
        "port-forward pod/web +1:19885 2:19886",
        "port-forward pod/web 70000:19885 2:19886",
        "port-forward pod/web 1:119885 2:19886",
        "port-forward po/web 1:19885 2:19886",
        "port-forward svc/web 1:19885 2:19886",
        "port-forward --address 0.0.0.0 pod/web 1:19885 2:19886",
        "port-forward -c main pod/web 1:19885 2:19886",
        "port-forward pod/web 1:19885 2:19886 --",
        "port-forward -- pod/web 1:19885 2:19886",
    ] {
        assert_eq!(parsed(line), ParsedCommand::Other, "{line}");
    }
    let bytes = OsString::from_vec(b"\xff".to_vec());
    let flag = OsString::from_vec(b"-n\xff".to_vec());
    for arguments in [
        vec!["exec".into(), bytes.clone(), "--".into(), "id".into()],
        vec!["exec".into(), flag, "web".into(), "--".into(), "id".into()],
        vec![bytes, "web".into()],
        vec![],
    ] {
        assert_eq!(parse(&arguments), ParsedCommand::Other, "{arguments:?}");
    }
}

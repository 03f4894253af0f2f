//! Bad input: each kind gives one sentence that names the cause, and its own exit code; none hangs.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Cli;

/// Returns a port on which no process listens. It was free a moment ago, and nothing reserves it.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Writes a kubeconfig for this server; returns its path.
fn kubeconfig(cli: &Cli, server: &str) -> String {
    let content = format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{{"name": "c", "cluster": {{"server": "{server}"}}}}],
            "users": [{{"name": "u", "user": {{"token": "SECRET"}}}}],
            "contexts": [{{"name": "here", "context": {{"cluster": "c", "user": "u"}}}}]}}"#
    );
    cli.file("kubeconfig", &content)
}

fn exec<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [options, &["exec", "web", "--", "true"][..]].concat()
}

#[test]
fn an_agent_that_does_not_answer_is_named() {
    let cli = Cli::new();
    let socket = cli.dir.path().join("agent.sock");
    let socket = socket.to_str().unwrap();
    let (code, sentence) = cli.fails(&exec(&["--link", "local", "--agent-socket", socket]));
    assert_eq!(code, 233);
    assert!(
        sentence.contains(socket) && sentence.contains("podbridge-agent serve"),
        "{sentence}"
    );
}

#[test]
fn a_missing_local_file_is_named_before_a_bridge_is_started() {
    let cli = Cli::new();
    let local = ["--link", "local", "--agent-socket", "/no/agent"];
    for command in ["cp", "sync"] {
        let (code, sentence) = cli.fails(&[&local[..], &[command, "/no/such", "x:/tmp/f"]].concat());
        assert_eq!(code, 222);
        assert!(sentence.contains("/no/such"), "{sentence}");
    }
    assert!(!cli.bridges().exists(), "no bridge is started for it");
}

#[test]
fn a_bridge_directory_that_other_users_can_enter_is_refused() {
    let cli = Cli::new();
    std::fs::create_dir(cli.bridges()).unwrap();
    std::fs::set_permissions(cli.bridges(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, sentence) = cli.fails(&exec(&["--link", "local", "--agent-socket", "/no/agent"]));
    assert_eq!(code, 235);
    assert!(sentence.contains("bridges") && sentence.contains("0755"), "{sentence}");
}

#[test]
fn kubeconfigs_that_cannot_be_used_are_named() {
    let cli = Cli::new();
    let (code, sentence) = cli.fails(&exec(&[]));
    assert_eq!(code, 223);
    assert!(sentence.contains("KUBECONFIG"), "{sentence}");

    let (code, sentence) = cli.fails(&exec(&["--kubeconfig", "/no/config"]));
    assert_eq!(code, 223);
    assert!(sentence.contains("/no/config"), "{sentence}");

    let broken = cli.file("broken", "users: {SECRET");
    let (code, sentence) = cli.fails(&exec(&["--kubeconfig", &broken]));
    assert_eq!(code, 223);
    assert!(sentence.contains(&broken) && !sentence.contains("SECRET"), "{sentence}");
}

#[test]
fn an_unknown_context_is_named_with_the_existing_ones() {
    let cli = Cli::new();
    let path = kubeconfig(&cli, "https://127.0.0.1:1");
    let (code, sentence) = cli.fails(&exec(&["--kubeconfig", &path, "--context", "there"]));
    assert_eq!(code, 224);
    assert!(
        sentence.contains("\"there\"") && sentence.contains("here"),
        "{sentence}"
    );
}

#[test]
fn an_api_server_that_is_down_is_named() {
    let cli = Cli::new();
    let server = format!("https://127.0.0.1:{}", closed_port());
    let path = kubeconfig(&cli, &server);
    let (code, sentence) = cli.fails(&exec(&["--kubeconfig", &path]));
    assert_eq!(code, 225);
    assert!(sentence.contains(&server), "{sentence}");
}

#[test]
fn an_api_server_that_never_answers_is_a_timeout() {
    let cli = Cli::new();
    // The listener queues connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    let path = kubeconfig(&cli, &server);
    let (code, sentence) = cli.fails(&exec(&["--kubeconfig", &path, "--connect-timeout", "1"]));
    assert_eq!(code, 234);
    assert!(sentence.contains(&server), "{sentence}");
}

#[test]
fn wrong_options_are_usage_errors() {
    let cli = Cli::new();
    for arguments in [
        &["exec", "x"][..],
        &["exec", "--link", "warp", "x", "--", "true"],
        &["exec", "--link", "local", "x", "--", "true"],
        &["exec", "No_Pod", "--", "true"],
        &["exec", "--env", "novalue", "x", "--", "true"],
        &["cp", "/a", "/b"],
        &["cp", "a:/a", "b:/b"],
        &["sync", "/a", "/b"],
        &["sync", "a:/a", "b:/b"],
        &["sync", "-", "b:/b"],
        &["sync", "", "b:/b"],
        &["sync", "--exclude", "/", "/", "b:/b"],
        &["sync", "--compress", "sometimes", "/", "b:/b"],
        &["frobnicate"],
        &["stop"],
    ] {
        let (code, _) = cli.fails(arguments);
        assert_eq!(code, 221, "{arguments:?}");
    }
    let mut command = cli.command(&exec(&[]));
    let (code, sentence) = Cli::failed(&command.env("PODBRIDGE_LINK", "warp").output().unwrap());
    assert_eq!(code, 221);
    assert!(sentence.contains("PODBRIDGE_LINK"), "{sentence}");
}

#[test]
fn a_token_is_neither_printed_nor_logged() {
    let cli = Cli::new();
    let server = format!("https://127.0.0.1:{}", closed_port());
    let path = kubeconfig(&cli, &server);
    let mut command = cli.command(&exec(&["--kubeconfig", &path]));
    let output = command
        .env("PODBRIDGE_TOKEN", "SECRET")
        .env("PODBRIDGE_LOG", "trace")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(225));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("SECRET"));
    for file in std::fs::read_dir(cli.bridges()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = std::fs::read_to_string(&path).unwrap();
            assert!(log.contains("bridge begins") && !log.contains("SECRET"), "{log}");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}

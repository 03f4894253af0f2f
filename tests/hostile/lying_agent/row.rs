//! One case of the lying agent: starts it with its lie, a bridge, and the client that meets the lie.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use podbridge_tests::build::Build;
use podbridge_tests::client_protocol::ask;
use podbridge_tests::pair::Pair;
use serde_json::json;

use crate::frame::bridge::start_bridge;
use crate::frame::control::Control;
use crate::frame::output;
use crate::frame::scene::{self, Attack, BRIDGE_CEILING, Client, Scene, Setting};
use crate::lying_agent::server::{Lie, LyingAgent};

/// How long a client that has to give up may take.
const CLIENT_END: Duration = Duration::from_secs(10);
/// Most calls for one log: at first, and then per second.
const FOLLOWS_AT_ONCE: f64 = 4.0;
const FOLLOWS_PER_SECOND: f64 = 4.0;
/// Most links to one agent: at first, and then per second.
const LINKS_AT_ONCE: f64 = 6.0;
const LINKS_PER_SECOND: f64 = 6.0;
/// Id of the log that readers of the console ask for.
const LOG: &str = "podbridge-hostile-1-node";

/// The operation that meets the lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// A command without input.
    Exec,
    /// A command whose output nobody reads.
    ExecUnread,
    /// A command with endless input.
    ExecInput,
    /// A download to a file, and one to standard output.
    Get,
    GetToStdout,
    Put,
    /// A tree out of the pod, and one into it.
    Pull,
    Push,
    /// The bridge of a Zuul build, which watches logs by itself, with a reader of a log. `true` runs beside it.
    Slot,
    /// The bridge of a Zuul build, which greets the agent by itself, and a command. Nothing can run.
    Greeting,
}

/// How the client has to end. Never is its stderr anything but sentences of podbridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, soon, and not with success.
    Fails,
    /// By itself, soon, with any exit code.
    Soon,
    /// It may wait as long as the pod does, and has no success.
    Waits,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) lie: Lie,
    pub(super) act: Act,
    pub(super) ending: Ending,
    /// How long the attack lasts at least.
    pub(super) time: Duration,
}

impl scene::Row for Row {
    fn name(&self) -> &'static str {
        self.name
    }
}

impl Row {
    pub(super) const fn new(name: &'static str, lie: Lie, act: Act, ending: Ending) -> Self {
        Self {
            name,
            lie,
            act,
            ending,
            time: Duration::ZERO,
        }
    }

    /// An attack that needs time to fill the memory of its victim, or to keep it busy.
    pub(super) const fn lasting(self) -> Self {
        Self {
            time: Duration::from_millis(500),
            ..self
        }
    }

    /// Runs rows that have a client, one after the other against one bridge.
    pub(super) fn run_with_clients(setting: &Setting, rows: &mut VecDeque<Row>) -> Vec<String> {
        let mut scene = Scene::begin(setting);
        let pair = Pair::without_agent();
        let agent = LyingAgent::start(pair.agent_socket(), setting.seed);
        let socket = start_bridge(&mut scene, &pair);
        let control = Control::Exec(socket);
        while let Some(row) = rows.pop_front() {
            scene.begin_row(row.name);
            agent.lie(Some(row.lie));
            let mut client = scene.attack_for(row.time, &control, |attack| row.start(attack, &pair));
            row.check_client(&mut scene, &mut client);
            if scene.is_spoilt() {
                break;
            }
        }
        agent.lie(None);
        scene.verdict()
    }

    /// Runs rows that a build's bridge meets by itself, one after the other against one bridge.
    pub(super) fn run_in_slot(setting: &Setting, rows: &mut VecDeque<Row>) -> Vec<String> {
        let mut scene = Scene::begin(setting);
        let (pair, build) = (Pair::without_agent(), Build::default());
        let agent = LyingAgent::start(pair.agent_socket(), setting.seed);
        let bridge = build.start_bridge(&pair, "web");
        scene.watch_output(build.log());
        let control = Control::Exec(build.socket());
        control.run().unwrap();
        relink(&build, &mut scene);
        scene.guard("bridge", bridge.child.id(), BRIDGE_CEILING);
        while let Some(row) = rows.pop_front() {
            scene.begin_row(row.name);
            agent.lie(Some(row.lie));
            relink(&build, &mut scene);
            agent.take_follows();
            agent.take_hellos();
            let begun = Instant::now();
            drop(scene.attack_for(row.time, &control, |_| Reader::open(bridge.ports[0].port)));
            // Whatever comes of a stream, the next one is opened after a pause.
            let follows = f64::from(agent.take_follows());
            let most = FOLLOWS_AT_ONCE + FOLLOWS_PER_SECOND * begun.elapsed().as_secs_f64();
            scene.expect(follows <= most, || {
                let links = agent.take_hellos();
                format!(
                    "the bridge asked for the log {follows} times in {:?}, over {links} new links",
                    begun.elapsed()
                )
            });
            if scene.is_spoilt() {
                break;
            }
        }
        // A stream without end goes on until its link ends.
        agent.lie(None);
        relink(&build, &mut scene);
        scene.verdict()
    }

    /// Runs a row in which the bridge of a build cannot greet its agent as it should.
    pub(super) fn run_greeting(self, setting: &Setting) {
        let mut scene = Scene::begin(setting);
        let (pair, build) = (Pair::without_agent(), Build::default());
        let agent = LyingAgent::start(pair.agent_socket(), setting.seed);
        agent.lie(Some(self.lie));
        let bridge = build.start_bridge(&pair, "web");
        scene.watch_output(build.log());
        let control = Control::Status(build.socket());
        control.run().unwrap();
        scene.guard("bridge", bridge.child.id(), BRIDGE_CEILING);
        let exec = ["-n", "ns", "exec", "web", "--", "lie"];
        let mut command = build.kubectl(&pair, &exec);
        agent.take_hellos();
        let begun = Instant::now();
        let mut client = scene.attack_for(self.time, &control, |attack| attack.quiet_client(&mut command));
        // However a link ends, the next one is opened after a pause.
        let links = f64::from(agent.take_hellos());
        let most = LINKS_AT_ONCE + LINKS_PER_SECOND * begun.elapsed().as_secs_f64();
        scene.expect(links <= most, || {
            format!("the bridge opened {links} links in {:?}", begun.elapsed())
        });
        self.check_client(&mut scene, &mut client);
        drop(client);
        scene.conclude();
    }

    /// Runs a row whose bridge is told to end while it waits for the agent.
    pub(super) fn run_until_term(self, setting: &Setting) {
        let mut scene = Scene::begin(setting);
        let pair = Pair::without_agent();
        let agent = LyingAgent::start(pair.agent_socket(), setting.seed);
        let socket = start_bridge(&mut scene, &pair);
        agent.lie(Some(self.lie));
        let mut client = scene.attack_for(self.time, &Control::Exec(socket), |attack| self.start(attack, &pair));
        self.check_client(&mut scene, &mut client);
        drop(client);
        scene.conclude_at_once();
    }

    /// Starts the client that meets the lie.
    fn start(self, attack: &mut Attack<'_>, pair: &Pair) -> Client {
        let local = pair.dir().join(format!("local-{}", self.name));
        let local = local.to_str().unwrap();
        let mut command = match self.act {
            Act::Exec | Act::ExecUnread | Act::ExecInput => pair.exec(&["lie"]),
            Act::GetToStdout => pair.podbridge(&["cp", "x:/lie", "-"]),
            Act::Get => pair.podbridge(&["cp", "x:/lie", local]),
            Act::Pull => pair.podbridge(&["sync", "x:/lie", local]),
            Act::Push => {
                std::fs::create_dir_all(local).unwrap();
                std::fs::write(Path::new(local).join("file"), "content").unwrap();
                pair.podbridge(&["sync", local, "x:/lie"])
            }
            Act::Put => {
                std::fs::write(local, vec![7; 1 << 20]).unwrap();
                pair.podbridge(&["cp", local, "x:/lie"])
            }
            Act::Slot | Act::Greeting => unreachable!("they have a client of another kind"),
        };
        if matches!(self.act, Act::ExecInput) {
            command.stdin(File::open("/dev/zero").unwrap());
        }
        if matches!(self.act, Act::ExecUnread) {
            attack.client(command.stdout(Stdio::piped()))
        } else {
            attack.quiet_client(&mut command)
        }
    }

    fn check_client(self, scene: &mut Scene, client: &mut Client) {
        let end = match self.ending {
            Ending::Waits => client.end_within(Duration::ZERO),
            Ending::Fails | Ending::Soon => {
                let end = client.end_within(CLIENT_END);
                scene.expect(end.is_some(), || format!("the client still runs after {CLIENT_END:?}"));
                end
            }
        };
        if let Some(end) = end
            && self.ending != Ending::Soon
        {
            scene.expect(!end.success(), || "the client reports success".into());
        }
        for fault in output::client_faults(&client.stderr()) {
            scene.fault(format!("the client's stderr: {fault}"));
        }
    }
}

/// Makes new links to the containers of a build's pod; the bridge watches the logs of each. The agent is the same one for both.
fn relink(build: &Build, scene: &mut Scene) {
    for request in [
        json!({"v": 1, "op": "relink"}),
        json!({"v": 1, "op": "relink", "container": "main"}),
    ] {
        let relinked = ask(&build.socket(), &request);
        let is_ok = relinked.as_ref().is_ok_and(|relinked| relinked["outcome"] == "ok");
        scene.expect(is_ok, || format!("no new link: {relinked:?}"));
    }
}

/// A reader of a log on the console. The drop closes its connection.
#[derive(Debug)]
struct Reader(TcpStream);

impl Reader {
    fn open(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("s:{LOG}\n").as_bytes()).unwrap();
        let mut reading = stream.try_clone().unwrap();
        thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
        Self(stream)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The bridge may have closed it.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

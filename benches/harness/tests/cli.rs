//! The command, from its arguments to its exit code and its files, over servers of `tests/servers/run`.

use py_reactor_bench::results::{CaseResult, Counting, Outcome, Results};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHORT: [&str; 4] = ["--seconds", "0.2", "--rounds", "2"];

fn servers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/run")
}

fn bench(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.arg("--servers").arg(servers()).arg("--out").arg(dir).args(args).output().unwrap()
}

fn results(dir: &Path) -> Results {
    serde_json::from_str(&fs::read_to_string(dir.join("results.json")).unwrap()).unwrap()
}

fn outcome<'a>(case: &'a CaseResult, server: &str) -> &'a Outcome {
    &case.entries.iter().find(|entry| entry.server == server).unwrap().outcome
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn one_measurement_of_each_kind() {
    let dir = tempfile::tempdir().unwrap();
    let cases = "echo-64,pipelined,connect,http,udp,cpu-2,ping-under-flood,open-64,echo-1000";
    let output = bench(dir.path(), &[&SHORT[..], &["--case", cases, "--server", "honest,absent"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let results = results(dir.path());
    assert_eq!(results.cases.len(), 9);
    for case in &results.cases {
        let measured = case.measured("honest").unwrap_or_else(|| panic!("{} was not measured", case.name));
        let summary = &measured.summary;
        assert_eq!(measured.rounds.len(), 2);
        assert!(summary.per_second.median > 0.0 && summary.megabytes_per_second.median > 0.0, "{}", case.name);
        assert!(summary.cpu.unwrap().median > 0.0 && summary.p50.unwrap().median > 0.0, "{}", case.name);
        // The first that runs is the baseline.
        assert_eq!(summary.ratio.unwrap().median, 1.0);
        assert_eq!(summary.memory_per_connection.is_some(), case.name == "echo-1000");
        assert_eq!(case.rate.is_some(), case.name == "open-64");
        // Where a tool can count at all, it has counted wherever the server was asked as fast as it could.
        assert_eq!(
            summary.syscalls.is_some(),
            matches!(results.settings.syscalls, Counting::CountedBy(_)) && case.rate.is_none(),
            "{}",
            case.name
        );
        assert!(
            matches!(outcome(case, "absent"), Outcome::Unavailable(reason) if reason == "this mode is not there yet")
        );
    }
    assert_eq!(results.servers[1].version.as_deref(), Some("honest with 1 contexts"));
    for file in ["report.md", "report.html"] {
        let report = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(report.contains("HTTP/1.1 keep-alive") && report.contains("this mode is not there yet"), "{file}");
    }
    assert!(text(&output.stdout).contains("| case | honest |"));
}

#[test]
fn a_wrong_byte_and_a_crash_fail_the_run_but_not_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let output = bench(dir.path(), &[&SHORT[..], &["--case", "echo-1", "--server", "!absent"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("wrong in echo-1: connection 0: WRONG BYTE: byte 0"), "{said}");
    assert!(said.contains("exit status: 3") && said.contains("I can do no more"), "{said}");
    let results = results(dir.path());
    assert!(results.cases[0].measured("honest").is_some());
    for server in ["wrong", "dies"] {
        assert!(matches!(outcome(&results.cases[0], server), Outcome::Failed(_)), "{server}");
    }
}

#[test]
fn reports_can_be_written_again() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(bench(first.path(), &[&SHORT[..], &["--case", "echo-1", "--server", "honest"]].concat()).status.success());
    let json = first.path().join("results.json");
    assert!(bench(second.path(), &["--from", json.to_str().unwrap()]).status.success());
    for file in ["results.json", "report.md", "report.html"] {
        let read = |dir: &tempfile::TempDir| fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(read(&first) == read(&second), "{file} differs");
    }
}

#[test]
fn a_peer_is_measured_without_what_only_its_machine_knows() {
    let mut peer = Command::new(servers())
        .args(["honest", "echo"])
        .env("CONTEXTS", "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(peer.stdout.take().unwrap()), &mut line).unwrap();
    let port = serde_json::from_str::<serde_json::Value>(&line).unwrap()["port"].as_u64().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let name = format!("mine=127.0.0.1:{port}");
    let args = ["--peer", &name, "--case", "echo-64,http", "--server", "honest", "--baseline", "mine"];
    let output = bench(dir.path(), &[&SHORT[..], &args].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let results = results(dir.path());
    let summary = &results.cases[0].measured("mine").unwrap().summary;
    assert!(summary.per_second.median > 0.0);
    assert!(summary.cpu.is_none() && summary.syscalls.is_none());
    assert!(results.cases[0].measured("honest").unwrap().summary.ratio.is_some());
    assert!(matches!(outcome(&results.cases[1], "mine"), Outcome::Unavailable(_)));
    drop(peer.stdin.take());
    peer.wait().unwrap();
}

#[test]
fn mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for (args, part) in [
        (["--case", "nothing"], "no case is called nothing; there are echo-1, "),
        (["--server", "nobody"], "no server is called nobody; there are absent, "),
        (["--baseline", "nobody"], "--baseline nobody is not among the servers"),
        (["--peer", "x"], "NAME=HOST:PORT is wanted"),
        (["--from", "/nowhere/results.json"], "cannot read /nowhere/results.json"),
        (["--rounds", "0"], "0 is not in 1..=1000"),
        (["--seconds", "-1"], "a number above 0 is wanted"),
    ] {
        let output = bench(dir.path(), &args);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(part), "{args:?}: {said}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["--servers", "/nowhere/run"]).output().unwrap();
    assert!(text(&output.stderr).contains("cannot run /nowhere/run --list; --servers says where it is"));
}

#[test]
fn a_list_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let listed = text(&bench(dir.path(), &["--list"]).stdout);
    for part in ["echo-64          * Echo, 64 connections, 64 B", "honest             does what it should"] {
        assert!(listed.contains(part), "{listed}");
    }
}

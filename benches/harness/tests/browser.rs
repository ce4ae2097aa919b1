//! The report in a real browser: what is drawn, where, and whether one can read it. Needs Chromium: `make test-bench`.
//!
//! The page is opened with a script at its end (`look.js`), which looks at what the browser has made of it and writes
//! what is wrong into the document. The browser prints the document.

use py_reactor_bench::latency::{CurvePoint, Percentiles};
use py_reactor_bench::machine::Machine;
use py_reactor_bench::report;
use py_reactor_bench::results::{
    CaseResult, Counting, CpuPerMessage, Entry, FORMAT, Measured, Outcome, Results, Round, ServerInfo, Settings,
    Summary,
};
use std::fs;
use std::path::Path;
use std::process::Command;

const NAMES: [&str; 14] = [
    "reactor-uring",
    "reactor-epoll",
    "reactor-uring-doc",
    "reactor-epoll-doc",
    "reactor-uring-zerocopy",
    "reactor-uring-owngil",
    "asyncio",
    "uvloop",
    "gen_tcp",
    "socket",
    "floor-epoll",
    "floor-uring",
    "a-peer-with-a-long-name",
    "<b>&amp;",
];

/// Figures that differ from server to server, and by so much between slow and fast that every corner is drawn.
fn measured(server: usize, connections: usize) -> Outcome {
    let speed = 1.6_f64.powi(server as i32);
    let round = |part: f64| Round {
        seconds: 1.0,
        messages: (900.0 * speed) as u64,
        per_second: 900.0 * speed * part,
        megabytes_per_second: 0.0576 * speed,
        latency_us: Some(Percentiles {
            p50: 1000.0 / speed,
            p99: 20_000.0 / speed,
            p999: None,
            max: 1e6,
            samples: 900,
        }),
        cpu_us: (server != 12).then_some(CpuPerMessage { user: 600.0 / speed, system: 300.0 / speed }),
        grown_bytes: Some(30_000_000),
        generator_cpus: 0.95,
        other_cpus: 0.3,
        stolen_cpus: 0.0,
        retransmissions: server as u64,
    };
    let rounds: Vec<Round> = [1.0, 0.8, 1.3].map(round).to_vec();
    let slow = |percentile: f64| 1.0 + 60.0 / (100.001 - percentile);
    let curve = [0.0, 25.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99]
        .map(|percentile| CurvePoint { percentile, us: 40_000.0 / speed.sqrt() * slow(percentile) });
    Outcome::Measured(Box::new(Measured {
        summary: Summary::of(&rounds, connections).unwrap(),
        curve: curve.to_vec(),
        warnings: if server.is_multiple_of(4) {
            vec!["other programs used 30 % of a CPU meanwhile".into()]
        } else {
            vec![]
        },
        rounds,
    }))
}

fn sample() -> Results {
    let case = |name: &str, title: &str, rate, servers: usize| {
        let outcome = |at: usize| match at {
            3 => Outcome::Unavailable("this mode is not there yet, for a reason that fills a line of its own".into()),
            5 => Outcome::Failed("connection 7: WRONG BYTE: byte 3 of an answer is 0x00 and not 0x01".into()),
            at => measured(at, 1000),
        };
        let entry = |at: usize| Entry { server: NAMES[at].into(), outcome: outcome(at) };
        let mut case = CaseResult {
            name: name.into(),
            title: title.into(),
            unit: "messages".into(),
            rate,
            seconds: 2.0,
            generator_cpu: None,
            entries: (0..servers).map(entry).collect(),
        };
        case.compare_with("uvloop");
        case
    };
    Results {
        format: FORMAT,
        started: "2026-01-02 03:04 UTC".into(),
        command: "make bench ARGS=\"--rounds 3\"".into(),
        machine: Machine::here(),
        settings: Settings {
            rounds: 3,
            seconds: Some(2.0),
            baseline: "uvloop".into(),
            pinned: true,
            syscalls: Counting::NotCounted("perf: not permitted; strace: not permitted".into()),
        },
        servers: NAMES
            .iter()
            .map(|name| ServerInfo {
                name: (*name).into(),
                description: "what it is, in a line".into(),
                version: Some("1.2.3, Python 3.13.0, OTP 27".into()),
            })
            .collect(),
        cases: vec![
            case("echo-64", "Echo, 64 connections, 64 B", None, NAMES.len()),
            case("idle-10000", "Echo, 100 busy connections among 10 000 idle ones, 64 B", None, NAMES.len()),
            case("open-64", "Fixed rate, 64 connections, 64 B", Some(20_000.0), NAMES.len()),
            case("few", "A single server", None, 1),
        ],
    }
}

fn browser() -> String {
    let named = std::env::var("BROWSER_BINARY").ok();
    let known = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"].map(String::from);
    let works =
        |name: &String| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    named.into_iter().chain(known).find(works).expect(
        "there is no browser: install Chromium (Debian: apt-get install chromium), or set BROWSER_BINARY to one",
    )
}

/// What `look.js` finds wrong with the page in a window of this width.
fn look(page: &str, dark: bool, width: u32) -> String {
    let dir = tempfile::tempdir().unwrap();
    let looked = page.replace("</body>", concat!("<script>", include_str!("look.js"), "</script></body>"));
    assert_ne!(looked, page);
    let document = run_browser(dir.path(), &looked, dark, width, &["--dump-dom"]);
    let (_, found) = document
        .split_once(if dark { "<pre id=\"found-in-dark\">" } else { "<pre id=\"found-in-light\">" })
        .expect("the script has not run to its end, or not in these colours");
    found.split_once("</pre>").unwrap().0.to_owned()
}

fn run_browser(dir: &Path, page: &str, dark: bool, width: u32, args: &[&str]) -> String {
    let file = dir.join("report.html");
    fs::write(&file, page).unwrap();
    // Blink's names: 0 is dark, 1 is light.
    let scheme = format!("--blink-settings=preferredColorScheme={}", u32::from(!dark));
    let output = Command::new(browser())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars"])
        .args([&scheme, &format!("--user-data-dir={}", dir.display()), &format!("--window-size={width},4200")])
        .args(args)
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs a browser: make test-bench"]
fn everything_is_drawn_and_can_be_read() {
    let page = report::html(&sample());
    for dark in [false, true] {
        for width in [1200, 500] {
            let found = look(&page, dark, width);
            assert_eq!(found, "nothing", "dark: {dark}, {width} pixels wide");
        }
    }
}

#[test]
#[ignore = "needs a browser: make test-bench"]
fn what_is_wrong_is_found() {
    let page = report::html(&sample());
    for (wrong, part) in [
        ("<body>", "<body><img src=\"http://127.0.0.1:9/x.png\">"),
        ("<body>", "<body><p style=\"color: var(--page)\">text</p>"),
        ("<body>", "<body><div style=\"width: 3000px\">wide</div>"),
        ("<body>", "<body><a href=\"#nowhere\">link</a>"),
        ("</svg>", "<text x=\"600\" y=\"-20\">outside</text></svg>"),
        ("</svg>", "<g><text x=\"300\" y=\"20\">one</text><text x=\"305\" y=\"22\">other</text></g></svg>"),
        ("class=\"bar\" x=\"", "class=\"bar\" x=\"NaN"),
        ("class=\"line\" d=\"M", "class=\"line\" d=\"MNaN "),
    ]
    .map(|(from, to)| (page.replacen(from, to, 1), to))
    {
        assert_ne!(wrong, page, "{part}");
        assert_ne!(look(&wrong, false, 1200), "nothing", "{part}");
    }
}

/// For people: `BENCH_SCREENSHOTS=/some/directory` gets pictures of the sample.
#[test]
#[ignore = "needs a browser: make test-bench"]
fn screenshots() {
    let Ok(dir) = std::env::var("BENCH_SCREENSHOTS") else { return };
    let page = report::html(&sample());
    for (dark, name) in [(false, "light.png"), (true, "dark.png")] {
        let profile = tempfile::tempdir().unwrap();
        let screenshot = format!("--screenshot={}", Path::new(&dir).join(name).display());
        run_browser(profile.path(), &page, dark, 1200, &[&screenshot]);
    }
}

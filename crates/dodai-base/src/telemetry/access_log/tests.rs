use std::path::Path;
use std::sync::mpsc;

use dodai_log::Logging;

use super::*;
use crate::telemetry::line::tests::record;

const SOON: Duration = Duration::from_secs(20);

fn file(path: &Path, max_bytes: u64, keep: u32) -> Config {
    Config::to(Output::File { path: path.to_owned(), max_bytes, keep })
}

fn statuses(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    let status = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].as_u64().unwrap();
    text.lines().map(status).collect()
}

/// A target whose writes wait for a word from the test.
struct Gate {
    entered: SyncSender<()>,
    go_on: Receiver<io::Result<()>>,
}

impl Target for Gate {
    fn write(&mut self, _lines: &[u8]) -> io::Result<()> {
        let _ = self.entered.send(());
        self.go_on.recv().unwrap_or(Ok(()))
    }
}

fn gated(queue: usize) -> (AccessLog, Receiver<()>, SyncSender<io::Result<()>>) {
    let (entered, entries) = mpsc::sync_channel(16);
    let (word, go_on) = mpsc::sync_channel(16);
    let log = AccessLog::over(
        Box::new(Gate { entered, go_on }),
        Format::Json,
        Filter::all().into(),
        Headers::default(),
        queue,
    );
    let log = log.unwrap();
    (log, entries, word)
}

#[test]
fn lines_read_back_in_order_after_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(file(&path, u64::MAX, 1)).unwrap();
    for status in 200..300 {
        log.record(&Arc::new(Record { status, ..record() }));
    }
    assert!(log.close(SOON));
    assert_eq!(statuses(&path), (200..300).collect::<Vec<u64>>());
    let reading = log.reading();
    assert_eq!((reading.written, reading.dropped, reading.queued), (100, 0, 0));
    log.record(&Arc::new(record()));
    assert_eq!(log.reading().dropped, 1, "after close a record is dropped and counted");
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let (log, entries, word) = gated(2);
    log.record(&Arc::new(record()));
    entries.recv_timeout(SOON).unwrap();
    // The writer holds one; two more fit.
    (0..5).for_each(|_| log.record(&Arc::new(record())));
    let reading = log.reading();
    assert_eq!((reading.written, reading.dropped, reading.queued), (0, 3, 3));
    drop(word);
    assert!(log.close(SOON));
    assert_eq!((log.reading().written, log.reading().queued), (3, 0));
}

#[test]
fn what_cannot_be_written_is_counted_and_later_lines_go_on() {
    let (log, entries, word) = gated(4);
    log.record(&Arc::new(record()));
    entries.recv_timeout(SOON).unwrap();
    word.send(Err(io::Error::other("disk full"))).unwrap();
    log.record(&Arc::new(record()));
    drop(word);
    assert!(log.close(SOON));
    assert_eq!((log.reading().written, log.reading().dropped), (1, 1));
}

#[test]
fn a_stuck_writer_does_not_hold_up_the_end() {
    let (log, entries, word) = gated(4);
    log.record(&Arc::new(record()));
    entries.recv_timeout(SOON).unwrap();
    assert!(!log.close(Duration::from_millis(1)));
    drop(word);
}

#[test]
fn a_file_is_turned_over_by_size_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut target = File::open(path.clone(), 10, 2).unwrap();
    for line in ["one---\n", "two---\n", "three-\n", "four--\n"] {
        target.write(line.as_bytes()).unwrap();
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(
        [read("access.log"), read("access.log.1"), read("access.log.2")],
        ["four--\n", "three-\n", "two---\n"]
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut target = File::open(path.clone(), u64::MAX, 1).unwrap();
    target.write(b"before\n").unwrap();
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    target.write(b"after\n").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    assert_eq!(std::fs::read_to_string(folder.path().join("moved")).unwrap(), "before\n");
}

#[test]
fn an_output_that_cannot_be_opened_is_named() {
    let error = AccessLog::open(file(Path::new("/nowhere/at/all.log"), 1, 1)).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all.log") && error.contains("may write"), "{error}");
}

#[test]
fn text_lines_are_an_option() {
    let mut lines = Vec::new();
    render(&mut lines, &Format::Text, &Headers::default(), &record());
    assert!(lines.starts_with(b"[2023-11-14T22:13:20.000042Z] \"GET ") && lines.ends_with(b"\n"));
}

#[test]
fn what_format_and_filters_name_is_asked_for_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let plain = AccessLog::open(file(&path, u64::MAX, 1)).unwrap();
    assert_eq!(plain.heeds(), Heeds::default());
    let config = Config {
        format: "%REQ(X-Request-Id)% %RESP(Server)%".parse().unwrap(),
        filters: "header:x-lane=blue".parse::<Filter>().unwrap().into(),
        ..file(&path, u64::MAX, 1)
    };
    let log = AccessLog::open(config).unwrap();
    let mut asked = Vec::new();
    log.request_headers(&mut |name| asked.push(name.to_owned()));
    log.response_headers(&mut |name| asked.push(name.to_owned()));
    assert_eq!(asked, ["x-lane", "x-request-id", "server"]);
    assert!(log.heeds().request_headers && log.heeds().response_headers && !log.heeds().stations);
    let lane = |lane: &str, id: &str| {
        let named = |name: &str, value: &str| (name.into(), value.to_owned());
        let request_headers = vec![named("x-lane", lane), named("x-request-id", id)];
        Arc::new(Record { request_headers, ..record() })
    };
    log.record(&lane("red", "1"));
    log.record(&lane("blue", "2"));
    assert!(log.close(SOON));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "2 -\n");
    assert_eq!((log.reading().written, log.reading().dropped, log.reading().queued), (1, 0, 0));
}

#[test]
fn headers_that_others_asked_for_are_not_written() {
    let named = |name: &str| (name.into(), format!("value of {name}"));
    let request_headers = ["authorization", "x-own", "x-said"].map(named).to_vec();
    let headers = |name: &str| Headers { request: [name.to_owned()].into(), ..Headers::default() };
    let said = Some(Arc::new(Logging::read(None, &[], headers("x-said")).unwrap()));
    let record = Record { request_headers, logging: said, ..record() };
    let mut lines = Vec::new();
    render(&mut lines, &Format::Json, &headers("x-own"), &record);
    let text = String::from_utf8(lines).unwrap();
    assert!(text.contains("value of x-own") && text.contains("value of x-said"), "{text}");
    assert!(!text.contains("authorization"), "a tap asked for it, {text}");
}

#[test]
fn what_a_document_says_of_a_call_stands_before_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let config = Config { filters: Filter::failures().into(), ..file(&path, u64::MAX, 1) };
    let log = AccessLog::open(config).unwrap();
    let said = |format: Option<&str>, filters: &[&str]| {
        let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        Some(Arc::new(Logging::read(format, &filters, Headers::default()).unwrap()))
    };
    let calls = [
        (said(Some("%RESPONSE_CODE% own"), &["status=2xx", "status=404"]), 200),
        (said(Some("%RESPONSE_CODE% own"), &["status=2xx", "status=404"]), 503),
        (said(None, &["cel:call.status == 201"]), 201),
        (said(None, &["none"]), 500),
        (said(Some("%RESPONSE_CODE% failed"), &[]), 500),
        (said(Some("%RESPONSE_CODE% failed"), &[]), 200),
        (None, 200),
    ];
    for (logging, status) in calls {
        let record = Record { logging, status, ..record() };
        let brief = Brief {
            span: &record.span,
            effective_status: status,
            failure: None,
            took: record.took,
            caller: "",
            service: "",
            route: "",
            logging: record.logging.as_ref(),
        };
        if log.wants(&brief) {
            log.record(&Arc::new(record));
        }
    }
    assert!(log.close(SOON));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2]), (3, "200 own", "500 failed"), "{text}");
    assert!(lines[1].contains("\"status\":201"), "{text}");
}

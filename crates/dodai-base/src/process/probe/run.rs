//! The loop around the probes of one run of an instance.

use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::state::{State, Verdict, Which};
use super::{Probe, Probes};

/// Probes until the instance is dead or this is dropped; tells each new verdict. `ask` does one check and
/// holds its timeout.
pub(crate) async fn run<C: Clone, A: Future<Output = Result<(), String>>>(
    probes: &Probes<C>,
    ask: impl Fn(Probe<C>) -> A,
    verdict: &watch::Sender<Verdict>,
) {
    let mut state = State::new(probes, Instant::now());
    let mut under_way = FuturesUnordered::new();
    loop {
        let now = state.verdict();
        verdict.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
        let due = state.next_due();
        // Cancel safe: a timer, and a set of futures that lives outside of the select.
        tokio::select! {
            () = wait(due), if due.is_some() => {
                if let Some((_, which)) = due
                    && let Some(probe) = state.begin(which)
                {
                    let (began, answer) = (Instant::now(), ask(probe));
                    under_way.push(async move { (which, began, answer.await) });
                }
            }
            Some((which, began, result)) = under_way.next() => {
                state.observe(which, began, Instant::now(), result);
            }
            else => return,
        }
    }
}

async fn wait(due: Option<(Instant, Which)>) {
    if let Some((at, _)) = due {
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Check, ExecRequest, ask};
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    fn exec_probe(period_secs: u64) -> Probe {
        let check = Check::Exec { argv: vec!["check".into()] };
        Probe { period: Duration::from_secs(period_secs), ..Probe::new(check) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_liveness_probe_is_asked_every_period_and_then_kills() {
        let probes = Probes { liveness: Some(exec_probe(10)), ..Probes::default() };
        let (exec, mut requests) = mpsc::channel::<ExecRequest>(4);
        let (verdict, seen) = watch::channel(Verdict::Starting);
        let start = Instant::now();
        let asked = async {
            let mut at = Vec::new();
            while at.len() < 3 {
                let request = requests.recv().await.unwrap();
                at.push(start.elapsed().as_secs());
                request.answer.send(Err("exit code 1".into())).unwrap();
            }
            at
        };
        let ((), at) = tokio::join!(run(&probes, |probe| ask(probe, &exec), &verdict), asked);
        assert_eq!(at, [0, 10, 20]);
        assert_eq!(*seen.borrow(), Verdict::Dead("liveness probe failed: exit code 1".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_check_of_one_probe_does_not_delay_the_other() {
        let probes =
            Probes { liveness: Some(exec_probe(10)), readiness: Some(exec_probe(10)), ..Probes::default() };
        let (exec, mut requests) = mpsc::channel::<ExecRequest>(4);
        let (verdict, mut seen) = watch::channel(Verdict::Starting);
        tokio::select! {
            () = run(&probes, |probe| ask(probe, &exec), &verdict) => panic!("ended"),
            () = async {
                // The readiness check comes first and is never answered.
                let _slow = requests.recv().await.unwrap();
                let quick = requests.recv().await.unwrap();
                quick.answer.send(Ok(())).unwrap();
                let again = requests.recv().await.unwrap();
                again.answer.send(Ok(())).unwrap();
                seen.wait_for(|v| matches!(v, Verdict::Unready(_))).await.unwrap();
            } => {}
        }
    }

    #[tokio::test]
    async fn a_web_server_becomes_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = Check::HttpGet { address, path: "/up".into(), host: None, headers: vec![] };
        let probes = Probes { readiness: Some(Probe::new(check)), ..Probes::default() };
        let (exec, _requests) = mpsc::channel(1);
        let (verdict, mut seen) = watch::channel(Verdict::Starting);
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = socket.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"GET /up HTTP/1.1\r\n"));
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            seen.wait_for(|v| *v == Verdict::Ready).await.unwrap();
        };
        tokio::select! {
            () = run(&probes, |probe| ask(probe, &exec), &verdict) => panic!("ended"),
            () = server => {}
        }
    }
}

//! Questions that the server has for its bases, on the streams that the bases keep: a server never dials.
//!
//! A question is a number and JSON; its answers are JSON values until the end. What they mean is for whoever
//! asks and answers. Nothing here waits: a reader that is too slow loses answers, and is told how many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dodai_core::id::BaseId;
use dodai_proto::control as wire;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};

use super::MAX_MESSAGE;

/// How many questions may wait for a base's stream.
const QUEUE: usize = 16;
/// How many may be open on one base.
pub(super) const MOST_OPEN: usize = 64;
/// How many answers may wait for their reader.
const UNREAD: usize = 1024;
/// The largest answer, bytes: it shares the stream with everything else that a base says.
const MAX_ANSWER: usize = MAX_MESSAGE / 4;

/// One answer; the error ends them.
pub type Answer = Result<Bytes, String>;

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// One answer; the error ends them.
    Answer(Answer),
    /// So many answers are missing here: this reader was too slow.
    Missed(u64),
}

/// Who answers on a base.
pub trait Answers: Send + Sync + 'static {
    /// The answers to a question, one after the other.
    fn answer(&self, question: Bytes) -> BoxStream<'static, Answer>;
}

/// A base that answers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAnswers;

impl Answers for NoAnswers {
    fn answer(&self, _question: Bytes) -> BoxStream<'static, Answer> {
        futures_util::stream::iter([Err("this base answers no questions".to_owned())]).boxed()
    }
}

/// A question on its way.
pub(super) struct Question {
    json: Vec<u8>,
    answers: mpsc::Sender<Told>,
}

/// Asks the bases that are connected. Cheap to clone.
#[derive(Clone, Default)]
pub struct Asker(Arc<Mutex<BTreeMap<BaseId, mpsc::Sender<Question>>>>);

impl Asker {
    /// Asks one base. The answers end when all are told, when the base leaves, or with an error.
    ///
    /// # Errors
    /// When the base is not connected, or has too many questions already.
    pub fn ask(&self, base: &BaseId, json: Vec<u8>) -> Result<mpsc::Receiver<Told>, String> {
        let known = self.lock().get(base).cloned();
        let known = known.ok_or_else(|| format!("base {base} is not connected"))?;
        let (answers, read) = mpsc::channel(UNREAD);
        known.try_send(Question { json, answers }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => format!("base {base} has too many questions; try again"),
            mpsc::error::TrySendError::Closed(_) => format!("base {base} is not connected"),
        })?;
        Ok(read)
    }

    /// A base's stream takes its questions from now on.
    pub(super) fn enter(&self, base: &BaseId) -> mpsc::Receiver<Question> {
        let (send, questions) = mpsc::channel(QUEUE);
        let mut all = self.lock();
        all.retain(|_, known| !known.is_closed());
        all.insert(base.clone(), send);
        questions
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BaseId, mpsc::Sender<Question>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").finish_non_exhaustive()
    }
}

/// The questions that are open on one stream, on the server's side.
#[derive(Default)]
pub(super) struct Open {
    last: u64,
    readers: BTreeMap<u64, Reader>,
}

/// Who reads the answers to a question.
struct Reader {
    answers: mpsc::Sender<Told>,
    /// Answers that it had no room for and has not been told of.
    missed: u64,
}

impl Reader {
    /// Whether it still reads.
    fn take(&mut self, answer: Answer) -> bool {
        if self.missed > 0 && self.answers.try_send(Told::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        let told = match self.missed {
            0 => self.answers.try_send(Told::Answer(answer)),
            _ => Err(mpsc::error::TrySendError::Full(Told::Answer(answer))),
        };
        self.missed += u64::from(matches!(told, Err(mpsc::error::TrySendError::Full(_))));
        !self.answers.is_closed()
    }
}

impl Open {
    /// What goes to the base: the question, and first the end of those that nobody reads any more.
    pub(super) fn ask(&mut self, question: Question) -> Vec<wire::Ask> {
        let left: Vec<u64> = self
            .readers
            .iter()
            .filter(|(_, reader)| reader.answers.is_closed())
            .map(|(number, _)| *number)
            .collect();
        self.readers.retain(|number, _| !left.contains(number));
        let mut asks: Vec<wire::Ask> = left.into_iter().map(cancel).collect();
        if self.readers.len() >= MOST_OPEN {
            // The reader may have left, too; then nobody wants to know.
            let _gone = question
                .answers
                .try_send(Told::Answer(Err("too many questions are open on this base".to_owned())));
            return asks;
        }
        self.last += 1;
        self.readers.insert(self.last, Reader { answers: question.answers, missed: 0 });
        asks.push(wire::Ask { number: self.last, json: question.json });
        asks
    }

    /// Hands an answer to its reader; what is to be told to the base if there is none any more.
    pub(super) fn take(&mut self, answer: wire::Answer) -> Option<wire::Ask> {
        let reader = self.readers.get_mut(&answer.number)?;
        let reads = if !answer.refused.is_empty() {
            reader.take(Err(answer.refused))
        } else if answer.end {
            true
        } else {
            reader.take(Ok(answer.json.into()))
        };
        if answer.end || !reads {
            self.readers.remove(&answer.number);
        }
        (!reads && !answer.end).then(|| cancel(answer.number))
    }
}

/// A question without content ends the one of this number.
fn cancel(number: u64) -> wire::Ask {
    wire::Ask { number, json: Vec::new() }
}

/// The questions that a base works on. Dropping it ends them all.
#[derive(Default)]
pub(super) struct Working(BTreeMap<u64, oneshot::Sender<()>>);

impl Working {
    /// Takes a question in: what is to be run for it, if anything.
    pub(super) fn take(
        &mut self,
        ask: wire::Ask,
        answers: &Arc<dyn Answers>,
        send: &mpsc::Sender<wire::BaseMessage>,
    ) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
        self.0.retain(|_, running| !running.is_closed());
        if ask.json.is_empty() || self.0.len() >= MOST_OPEN {
            self.0.remove(&ask.number);
            return None;
        }
        let (end, mut ended) = oneshot::channel();
        self.0.insert(ask.number, end);
        let (answers, send, number) = (answers.clone(), send.clone(), ask.number);
        Some(async move {
            let mut all = answers.answer(ask.json.into());
            loop {
                let next = tokio::select! {
                    // Cancel safe: after the end nothing is read any more.
                    _ = &mut ended => return,
                    next = all.next() => next,
                };
                let answer = match next {
                    Some(Ok(json)) if json.len() > MAX_ANSWER => {
                        // Sent, it would end the stream, and with it all that this base is told.
                        let refused = format!(
                            "its answer has {} bytes, and {MAX_ANSWER} is the most that it may send; ask for less",
                            json.len()
                        );
                        wire::Answer { number, end: true, refused, json: Vec::new() }
                    }
                    Some(Ok(json)) => wire::Answer { number, json: json.into(), ..wire::Answer::default() },
                    Some(Err(refused)) => wire::Answer { number, end: true, refused, json: Vec::new() },
                    None => wire::Answer { number, end: true, ..wire::Answer::default() },
                };
                let end = answer.end;
                let message = Some(wire::base_message::Message::Answer(answer));
                if send.send(wire::BaseMessage { message }).await.is_err() || end {
                    return;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every question with these.
    struct Fixed(Vec<Bytes>);

    impl Answers for Fixed {
        fn answer(&self, _question: Bytes) -> BoxStream<'static, Answer> {
            futures_util::stream::iter(self.0.clone().into_iter().map(Ok)).boxed()
        }
    }

    #[test]
    fn a_slow_reader_is_told_how_much_it_missed_and_reads_on() {
        let mut open = Open::default();
        let (answers, mut read) = mpsc::channel(2);
        let number = open.ask(Question { json: b"1".to_vec(), answers })[0].number;
        let mut tell = |text: &str| {
            let answer = wire::Answer { number, json: text.as_bytes().to_vec(), ..wire::Answer::default() };
            open.take(answer).is_none()
        };
        let told = |text: &'static str| Ok(Told::Answer(Ok(Bytes::from_static(text.as_bytes()))));
        assert!(["a", "b", "lost", "lost", "lost"].into_iter().all(&mut tell));
        assert_eq!((read.try_recv(), read.try_recv()), (told("a"), told("b")));
        assert!(tell("c"));
        assert_eq!((read.try_recv(), read.try_recv()), (Ok(Told::Missed(3)), told("c")));
        drop(read);
        assert!(!tell("d"), "the base is told that nobody reads");
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_refused_and_the_stream_goes_on() {
        let answers: Arc<dyn Answers> =
            Arc::new(Fixed(vec![Bytes::from_static(b"1"), Bytes::from(vec![b' '; MAX_ANSWER + 1])]));
        let (send, mut sent) = mpsc::channel(8);
        let ask = wire::Ask { number: 7, json: b"1".to_vec() };
        let mut working = Working::default();
        let work = working.take(ask, &answers, &send);
        drop(send);
        work.expect("it is taken").await;
        let mut told = Vec::new();
        while let Some(wire::BaseMessage { message: Some(wire::base_message::Message::Answer(answer)) }) =
            sent.recv().await
        {
            told.push((answer.end, answer.json.len(), answer.refused.contains("the most")));
        }
        assert_eq!(told, [(false, 1, false), (true, 0, true)]);
    }
}

//! Questions to the API about the fate of containers: one at a time, and all that want to know the same share its answer. A pod can break
//! the links of hundreds of operations at once, again and again, and must not make the bridge ask the API server as often. `mod` asks.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Failure;
use crate::pod::{ContainerRef, Fate};

/// Time for which an answer counts.
const ANSWER_LIFETIME: Duration = Duration::from_secs(1);

/// The answers that still count.
#[derive(Debug, Default)]
pub(super) struct FateQuestions(Mutex<Vec<Answered>>);

#[derive(Debug)]
struct Answered {
    container: ContainerRef,
    at: Instant,
    answer: Result<Fate, Failure>,
}

impl FateQuestions {
    /// Returns the newest answer about the container, or asks. Cancel-safe: if the caller that asks goes away, the next one asks.
    pub(super) async fn ask(
        &self,
        container: &ContainerRef,
        question: impl Future<Output = Result<Fate, Failure>>,
    ) -> Result<Fate, Failure> {
        let mut answers = self.0.lock().await;
        answers.retain(|answered| answered.at.elapsed() < ANSWER_LIFETIME);
        if let Some(answered) = answers.iter().find(|answered| answered.container == *container) {
            return answered.answer.clone();
        }
        let answer = question.await;
        answers.push(Answered {
            container: container.clone(),
            at: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    fn container(name: &str) -> ContainerRef {
        ContainerRef {
            pod_uid: "uid".into(),
            static_pod_uid: None,
            container: name.into(),
            container_id: "id".into(),
            restarts: 0,
            address: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn operations_that_ask_at_once_share_one_question() {
        let (questions, asked) = (FateQuestions::default(), Cell::new(0));
        let ask = async |container: &ContainerRef, takes: Duration| {
            let question = async {
                asked.set(asked.get() + 1);
                sleep(takes).await;
                Ok(Fate::PodGone(format!("answer {}", asked.get())))
            };
            questions.ask(container, question).await
        };
        let (main, side) = (container("main"), container("side"));
        // The first one goes away while it waits for an answer.
        let hour = Duration::from_secs(3600);
        assert!(timeout(Duration::from_secs(5), ask(&main, hour)).await.is_err());
        let answers = join_all((0..640).map(|_| ask(&main, Duration::from_millis(10)))).await;
        assert_eq!(asked.get(), 2);
        assert!(
            answers
                .iter()
                .all(|answer| *answer == Ok(Fate::PodGone("answer 2".into())))
        );
        // Another container is another question, and an answer counts for a second.
        assert_eq!(ask(&side, Duration::ZERO).await, Ok(Fate::PodGone("answer 3".into())));
        sleep(ANSWER_LIFETIME).await;
        assert_eq!(ask(&main, Duration::ZERO).await, Ok(Fate::PodGone("answer 4".into())));
    }
}

//! Requests to servers: recorded, repeated and counted as those to models are.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use pacos_plugin::{Error, HttpResponse};

use super::{
    Service, Stop,
    service::{Asker, FAILURES_IN_A_ROW, backoff, handed_over},
};
use crate::{
    fault,
    ledger::{AttemptEnd, AttemptState, Charge, RecordedOutcome, RequestKey},
    manifest::ServerName,
    servers::{Again, Answer, RecordedResponse, Servers, SoundRequest},
};

/// Attempts of one request: with the waits between them, a minute.
const MOST_ATTEMPTS: u32 = 8;

/// The longest that a server may put off an attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Service {
    /// Asks a server one thing, by number `ordinal` of the asker's requests. A recorded response
    /// is returned as it is, whoever asked for it; a new one is returned when it is on disk.
    ///
    /// # Errors
    /// The outer error ends the run; the inner one is an outcome of this request, recorded as such
    /// unless it is the recipe's doing.
    pub(crate) async fn fetch(
        &self,
        asker: &Asker,
        ordinal: u32,
        request: &SoundRequest,
    ) -> Result<Result<HttpResponse, Error>, Stop> {
        let Some(servers) = &self.servers else {
            return Ok(Err(Error::new("unsupported", "no server is asked here")));
        };
        let server = &request.server;
        let (key, body) = request.canonical();
        let (name, identity) = (server.capability(), server.to_string());
        self.ask(asker, ordinal, (key, body), name, identity)
            .await?;
        if let Some(outcome) = self.ledger.outcome(key)? {
            return Ok(response(outcome));
        }
        let _alone = self.flights.alone(key).await;
        if let Some(outcome) = self.ledger.outcome(key)? {
            return Ok(response(outcome));
        }
        let _place = servers.place(server).await;
        let mut number = 0;
        loop {
            number += 1;
            let last = number == MOST_ATTEMPTS;
            match self.fetch_once(servers, asker, key, request, last).await? {
                Ended::Outcome(outcome) => return Ok(response(outcome)),
                Ended::NotSent(error) => return Ok(Err(error)),
                Ended::Gone(error) => {
                    return Err(Stop::ServerGone {
                        server: server.clone(),
                        attempts: number,
                        error,
                    });
                }
                Ended::Again(after) => {
                    let wait = after.map(|after| after.min(LONGEST_PAUSE));
                    let wait = wait.unwrap_or_else(|| backoff(number, key));
                    self.unless_ended(tokio::time::sleep(wait)).await?;
                }
            }
        }
    }

    async fn fetch_once(
        &self,
        servers: &Servers,
        asker: &Asker,
        key: RequestKey,
        request: &SoundRequest,
        last: bool,
    ) -> Result<Ended, Stop> {
        let nothing = Charge::default();
        let reservation = self.till.reserve(nothing).await.map_err(Stop::Budget)?;
        if *self.ended.borrow() {
            reservation.settle_unsent();
            return Err(Stop::Interrupted);
        }
        let stage = asker.stage.clone();
        let id = self.ledger.begin_attempt(key, stage, nothing).await?;
        fault::point("request:after-send-recorded");
        let started = Instant::now();
        let (answer, status, body) = servers.attempt(request).await;
        let seconds = started.elapsed().as_secs_f64();
        fault::point("request:reply-before-commit");
        let (ended, failure) = match answer {
            Answer::Response(_, Some(Again { after })) if !last => (Ended::Again(after), None),
            Answer::Response(response, _) => (
                Ended::Outcome(RecordedOutcome::Answered(RecordedResponse(response))),
                None,
            ),
            Answer::Passing(error) | Answer::Unreachable(error) if !last => {
                (Ended::Again(None), Some(error))
            }
            // It is not this request's fault: nothing is recorded as its outcome, and once the
            // server is back it is sent.
            Answer::Unreachable(error) => (Ended::Gone(error.clone()), Some(error)),
            Answer::Passing(error) | Answer::Failed(error) => {
                let outcome = RecordedOutcome::Failed(error.clone());
                (Ended::Outcome(outcome), Some(error))
            }
            Answer::NotSent(error) => (Ended::NotSent(error.clone()), Some(error)),
        };
        let outcome = match &ended {
            Ended::Outcome(outcome) => Some(outcome.clone()),
            Ended::Again(_) | Ended::NotSent(_) | Ended::Gone(_) => None,
        };
        let end = AttemptEnd {
            state: match failure {
                None => AttemptState::Answered,
                Some(_) => AttemptState::Failed,
            },
            status,
            body,
            failure,
            seconds,
            charge: nothing,
            outcome,
        };
        self.ledger.end_attempt(id, key, end).await?;
        fault::point("request:after-commit");
        reservation.settle(nothing);
        if let Ended::Outcome(outcome) = &ended
            && let Some(stop) = self.failing(&request.server, outcome)
        {
            return Err(stop);
        }
        Ok(ended)
    }

    /// A server that answers nobody ends the run; one that says no is answering.
    fn failing(
        &self,
        server: &ServerName,
        outcome: &RecordedOutcome<RecordedResponse>,
    ) -> Option<Stop> {
        let mut failures = self
            .failures_in_a_row
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(server.clone()).or_default();
        match outcome {
            RecordedOutcome::Failed(error) if error.code == "no-answer" => {
                *count += 1;
                (*count >= FAILURES_IN_A_ROW).then(|| Stop::ServerFailing {
                    server: server.clone(),
                    count: *count,
                    error: error.clone(),
                })
            }
            _ => {
                *count = 0;
                None
            }
        }
    }
}

/// How one attempt left its request.
enum Ended {
    Outcome(RecordedOutcome<RecordedResponse>),
    Again(Option<Duration>),
    /// For a reason that is the recipe's: another recipe may send it.
    NotSent(Error),
    /// Nobody is there.
    Gone(Error),
}

fn response(outcome: RecordedOutcome<RecordedResponse>) -> Result<HttpResponse, Error> {
    handed_over(outcome).map(|RecordedResponse(response)| response)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use pacos_plugin::HttpRequest;
    use scripted_server::{Action, Recorded, Script, Server};

    use super::*;
    use crate::{ledger::Ledger, manifest::Budget};

    fn service(dir: &std::path::Path, budget: Budget) -> Service {
        let ledger = Ledger::open(&dir.join("ledger.sqlite")).unwrap();
        let service = Service::new(BTreeMap::new(), Vec::new(), budget, ledger).unwrap();
        service.with_servers(Arc::new(Servers::new(BTreeMap::new()).unwrap()))
    }

    fn asker(place: u32) -> Asker {
        Asker {
            stage: "filters.0".into(),
            place: place.to_string(),
            seed: 1,
        }
    }

    fn server(script: impl Script) -> (Server, String) {
        let server = Server::start(script).unwrap();
        let url = format!("http://{}/", server.address());
        (server, url)
    }

    fn get(url: &str) -> SoundRequest {
        SoundRequest::read(&HttpRequest::get(url)).unwrap()
    }

    #[tokio::test]
    async fn many_who_ask_the_same_at_once_share_one_response() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), Budget::default());
        let (server, url) = server(|request: &Recorded| {
            Action::status(200, request.occurrence.to_string()).after(Duration::from_millis(50))
        });
        let request = get(&url);
        let (one, two, three) = (asker(1), asker(2), asker(3));
        let (one, two, three) = tokio::join!(
            service.fetch(&one, 0, &request),
            service.fetch(&two, 0, &request),
            service.fetch(&three, 0, &request),
        );
        for response in [one, two, three] {
            assert_eq!(response.unwrap().unwrap().text(), "1");
        }
        assert_eq!(server.count(), 1);
        assert_eq!(service.ledger().calls_of("filters.0").unwrap(), 3);
    }

    #[tokio::test]
    async fn another_request_in_a_recorded_place_is_not_deterministic() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), Budget::default());
        let (_server, url) = server(|_: &Recorded| Action::status(200, "here"));
        let first = service.fetch(&asker(1), 0, &get(&url)).await;
        assert_eq!(first.unwrap().unwrap().text(), "here");
        let other = service.fetch(&asker(1), 0, &get(&format!("{url}x"))).await;
        assert!(matches!(other, Err(Stop::NotDeterministic { .. })));
    }

    #[tokio::test]
    async fn a_server_that_says_no_is_an_answer_and_one_that_says_later_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), Budget::default());
        let (server, url) = server(|request: &Recorded| match request.path.as_str() {
            "/no" => Action::status(403, "no"),
            "/moved" => Action::status(302, "").header("location", "https://example.com/"),
            _ => Action::status(503, request.occurrence.to_string()).header("retry-after", "0"),
        });
        let no = service.fetch(&asker(1), 0, &get(&format!("{url}no"))).await;
        assert_eq!(no.unwrap().unwrap().status, 403);
        let moved = service
            .fetch(&asker(1), 1, &get(&format!("{url}moved")))
            .await;
        let moved = moved.unwrap().unwrap();
        assert_eq!(
            (moved.status, moved.header("Location")),
            (302, Some("https://example.com/"))
        );
        assert_eq!(server.count(), 2);
        // The last word of a server that is always busy is its answer.
        let later = service
            .fetch(&asker(1), 2, &get(&format!("{url}later")))
            .await;
        let later = later.unwrap().unwrap();
        assert_eq!((later.status, later.text().as_ref()), (503, "8"));
        assert_eq!(service.ledger().spent().unwrap().requests, 10);
    }

    #[tokio::test]
    async fn what_is_too_large_or_not_private_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), Budget::default());
        let (_server, url) = server(|_: &Recorded| Action::status(200, "a".repeat((16 << 20) + 1)));
        let large = service.fetch(&asker(1), 0, &get(&url)).await;
        assert_eq!(large.unwrap().unwrap_err().code, "response-too-large");
        let plain = get("http://example.com/");
        let plain = service
            .fetch(&asker(1), 1, &plain)
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(plain.code, "bad-request");
        assert_eq!(
            plain.message,
            "http://example.com/ is not encrypted: write https://, or have the recipe say that \
             example.com is private ([[servers]] name = \"example.com\", private = true)"
        );
    }

    #[tokio::test]
    async fn the_budget_counts_requests_to_servers() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget {
            requests: Some(1),
            ..Budget::default()
        };
        let service = service(dir.path(), budget);
        let (server, url) = server(|_: &Recorded| Action::status(200, ""));
        service
            .fetch(&asker(1), 0, &get(&url))
            .await
            .unwrap()
            .unwrap();
        // What is recorded costs nothing.
        service
            .fetch(&asker(2), 0, &get(&url))
            .await
            .unwrap()
            .unwrap();
        let over = service.fetch(&asker(3), 0, &get(&format!("{url}x"))).await;
        assert!(matches!(over, Err(Stop::Budget(_))));
        assert_eq!(server.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_gone_ends_the_run_and_is_asked_again_once_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), Budget::default());
        let (gone, url) = server(|_: &Recorded| Action::status(200, ""));
        let address = gone.address();
        drop(gone);
        let request = get(&url);
        let stop = service.fetch(&asker(1), 0, &request).await.unwrap_err();
        let text = stop.to_string();
        assert!(text.contains("is not there, after 8 attempts: "), "{text}");
        assert!(
            text.ends_with("`pacos run` goes on from here once it is"),
            "{text}"
        );
        // A clock that jumps would end the connection before it is made.
        tokio::time::resume();
        let _back = Server::start_at(address, |_: &Recorded| Action::status(200, "back")).unwrap();
        let response = service.fetch(&asker(1), 0, &request).await;
        assert_eq!(response.unwrap().unwrap().text(), "back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_nobody_ends_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), Budget::default());
        let (_server, url) = server(|_: &Recorded| Action::Drop);
        for number in 1..=FAILURES_IN_A_ROW {
            let request = get(&format!("{url}{number}"));
            let end = service.fetch(&asker(number), 0, &request).await;
            match end {
                Ok(failed) if number < FAILURES_IN_A_ROW => {
                    assert_eq!(failed.unwrap_err().code, "no-answer");
                }
                Err(stop) if number == FAILURES_IN_A_ROW => {
                    let text = stop.to_string();
                    assert!(text.contains("failed 20 requests in a row"), "{text}");
                }
                end => panic!("request {number}: {end:?}"),
            }
        }
    }
}

//! Replies and responses that a run has on record, for filters that are tried without asking.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use pacos_plugin::{Error, HttpResponse, Reply, Request};

use crate::{
    ledger::{Ledger, LedgerError, RecordedOutcome},
    models::canonical,
    seed,
    servers::{RecordedResponse, SoundRequest},
};

/// What the models and servers of a run said.
pub struct Recorded {
    ledger: Ledger,
    /// What identifies the model behind a role.
    identities: BTreeMap<String, String>,
    /// What was asked since somebody last looked that is not on record.
    missing: Mutex<Option<String>>,
}

impl Recorded {
    /// The record of a run.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(ledger: &Ledger) -> Result<Self, LedgerError> {
        let models: Vec<(String, String)> = ledger.read("reading who the models are", |c| {
            c.prepare("SELECT roles, identity FROM models WHERE identity IS NOT NULL")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })?;
        let mut identities = BTreeMap::new();
        for (roles, identity) in models {
            let roles: Vec<String> = serde_json::from_str(&roles)
                .map_err(|error| LedgerError::Damaged(format!("roles: {error}")))?;
            identities.extend(roles.into_iter().map(|role| (role, identity.clone())));
        }
        Ok(Recorded {
            ledger: ledger.clone(),
            identities,
            missing: Mutex::default(),
        })
    }

    /// What was asked first, since the last time, that is not on record. Whatever came of it does
    /// not count.
    pub fn take_missing(&self) -> Option<String> {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.take()
    }

    /// What a model said to request number `ordinal` about a record of this seed.
    pub(super) fn reply(
        &self,
        role: &str,
        request: &Request,
        seed: u64,
        ordinal: usize,
    ) -> Result<Reply, Error> {
        let Some(identity) = self.identities.get(role) else {
            return Err(self.missed(format!("the run has no model as {role}")));
        };
        let sample = seed::derive(seed, "sample", ordinal as u64);
        let (key, _) = canonical(identity, request, sample);
        match self.ledger.outcome(key) {
            Ok(Some(RecordedOutcome::Answered(reply))) => Ok(reply),
            Ok(Some(RecordedOutcome::Failed(error))) => Err(error),
            Ok(None) => Err(self.missed(format!(
                "the run has no reply of {role} to what it asks about this record"
            ))),
            Err(error) => Err(self.missed(error.to_string())),
        }
    }

    /// What a server said.
    pub(super) fn response(&self, request: &SoundRequest) -> Result<HttpResponse, Error> {
        let (key, _) = request.canonical();
        match self.ledger.outcome(key) {
            Ok(Some(RecordedOutcome::Answered(RecordedResponse(response)))) => Ok(response),
            Ok(Some(RecordedOutcome::Failed(error))) => Err(error),
            Ok(None) => Err(self.missed(format!(
                "the run has no response of {} to what it asks about this record",
                request.server
            ))),
            Err(error) => Err(self.missed(error.to_string())),
        }
    }

    /// Of what no ledger keeps.
    pub(super) fn unrecorded(&self, what: &str) -> Error {
        self.missed(format!("no run records {what}"))
    }

    fn missed(&self, message: String) -> Error {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.get_or_insert_with(|| message.clone());
        Error::new("not-recorded", message)
    }
}

#[cfg(test)]
mod tests {
    use pacos_plugin::Reply;

    use super::*;
    use crate::{
        kit::script,
        ledger::{Ask, AttemptEnd, AttemptState, Charge},
    };

    /// A ledger in which the judge was asked one thing about a record of seed 5.
    async fn ledger(dir: &std::path::Path, request: &Request) -> Ledger {
        let ledger = Ledger::open(&dir.join("ledger.sqlite")).unwrap();
        let about = r#"{"models": [{"name": "big", "roles": ["judge"], "identity": "big-1"}]}"#;
        ledger.set_meta("about", about.into()).await.unwrap();
        let (key, body) = canonical("big-1", request, seed::derive(5, "sample", 0));
        let ask = Ask {
            stage: "filters.0".into(),
            place: "0.0".into(),
            ordinal: 0,
            key,
            model: "big".into(),
            identity: "big-1".into(),
            body,
        };
        ledger.ask(ask).await.unwrap();
        let charge = Charge::default();
        let attempt = ledger.begin_attempt(key, "filters.0".into(), charge);
        let reply: Reply = script::reply("yes");
        let end = AttemptEnd {
            state: AttemptState::Answered,
            status: Some(200),
            body: Vec::new(),
            failure: None,
            seconds: 0.0,
            charge,
            outcome: Some(RecordedOutcome::Answered(reply)),
        };
        let attempt = attempt.await.unwrap();
        ledger.end_attempt(attempt, key, end).await.unwrap();
        ledger
    }

    #[tokio::test]
    async fn a_reply_is_that_to_the_same_request_about_the_same_record() {
        let dir = tempfile::tempdir().unwrap();
        let request = Request::completion("Is it good?");
        let recorded = Recorded::of(&ledger(dir.path(), &request).await).unwrap();
        assert_eq!(recorded.reply("judge", &request, 5, 0).unwrap().text, "yes");
        assert_eq!(recorded.take_missing(), None);
        let other = Request::completion("Is it bad?");
        for (role, request, seed, ordinal) in [
            ("judge", &other, 5, 0),
            ("judge", &request, 6, 0),
            ("judge", &request, 5, 1),
            ("teacher", &request, 5, 0),
        ] {
            let error = recorded.reply(role, request, seed, ordinal).unwrap_err();
            assert_eq!(error.code, "not-recorded");
            assert_eq!(recorded.take_missing(), Some(error.message));
        }
    }
}

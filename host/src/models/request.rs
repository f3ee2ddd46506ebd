//! The identity of a request: what it asks, of which model, as which sample.

use pacos_plugin::Request;
use sha2::{Digest, Sha256};

use crate::ledger::RequestKey;

/// Grows when the canonical form changes, so that old ledgers are not misread.
const KEY_VERSION: u32 = 1;

/// A request in its canonical form, and the hash of it.
///
/// Keys, time-outs, retries and batching are no part of it: they do not change what is asked.
/// `sample` tells apart two askings of the same thing that must not share one reply.
pub(crate) fn canonical(identity: &str, request: &Request, sample: u64) -> (RequestKey, String) {
    let body = serde_json::json!({
        "version": KEY_VERSION,
        "model": identity,
        "request": request,
        "sample": sample.to_string(),
    })
    .to_string();
    let key = RequestKey(Sha256::digest(body.as_bytes()).into());
    (key, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_requests_have_equal_keys_and_samples_tell_them_apart() {
        let request = Request::completion("Once");
        let (key, body) = canonical("m", &request, 1);
        assert_eq!(canonical("m", &request, 1), (key, body));
        assert_ne!(canonical("m", &request, 2).0, key);
        assert_ne!(canonical("n", &request, 1).0, key);
        let mut warmer = request.clone();
        warmer.temperature = Some(0.5);
        assert_ne!(canonical("m", &warmer, 1).0, key);
    }

    #[test]
    fn the_canonical_form_stays_as_it_is() {
        // Ledgers written by earlier releases are read by this form: a change needs a new version.
        let (_, body) = canonical("m", &Request::completion("Once"), 1);
        assert_eq!(
            body,
            r#"{"version":1,"model":"m","request":{"prompt":{"Completion":"Once"},"temperature":null,"top_p":null,"max_tokens":null,"stop":[],"logit_bias":[],"seed":null,"logprobs":null,"format":null},"sample":"1"}"#
        );
    }
}

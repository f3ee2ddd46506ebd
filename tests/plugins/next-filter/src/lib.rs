//! A filter that speaks contract 0.2 of `wit/0.2.0`: it keeps what has three words, and says how
//! sure it is. As a library for this machine it is empty: the native ABI knows no such contract.

#[cfg(target_family = "wasm")]
mod component {
    #[allow(missing_docs, reason = "generated code")]
    mod bindings {
        wit_bindgen::generate!({
            path: "wit/0.2.0",
            world: "filter-plugin",
            generate_all,
        });
    }
    use bindings::{
        exports::pacos::plugin::filter::{
            Candidate, Decision, Description, Diagnostic, Error, Guest, Judged, Task, Verdict,
        },
        pacos::plugin::types::Payload,
    };

    struct NextFilter;

    impl Guest for NextFilter {
        fn describe() -> Description {
            Description {
                name: "next-filter".into(),
                version: "0.2.0".into(),
                capabilities: Vec::new(),
                config_schema: r#"{"type":"object","properties":{}}"#.into(),
                stateful: false,
                batch_limit: 0,
            }
        }

        fn configure(_config: String) -> Vec<Diagnostic> {
            Vec::new()
        }

        fn start(_seeds: Vec<Task>) -> Result<(), Error> {
            Ok(())
        }

        fn restore(_history: Vec<Judged>) -> Result<(), Error> {
            Ok(())
        }

        fn judge(batch: Vec<Candidate>) -> Result<Vec<Verdict>, Error> {
            Ok(batch.iter().map(verdict).collect())
        }
    }

    fn verdict(candidate: &Candidate) -> Verdict {
        let words = match &candidate.payload {
            Payload::Task(task) => task.instruction.split_whitespace().count(),
            Payload::Chat(_) => 0,
        };
        let (decision, code) = match words {
            0..3 => (Decision::Drop, "too-short"),
            _ => (Decision::Keep, "kept"),
        };
        Verdict {
            decision,
            code: code.into(),
            message: String::new(),
            scores: Vec::new(),
            nearest: None,
            // Sure of what is far from three.
            confidence: Some(if words.abs_diff(3) > 1 { 1.0 } else { 0.5 }),
        }
    }

    bindings::export!(NextFilter with_types_in bindings);
}

//! The generator as the host drives it: configure, start, one unit at a time.

use pacos_plugin::{
    CandidateId, Error, Example, Generator, Level, Origin, Payload, Place, Plugin, Prompt,
    Proposals, Task, Unit, testing::ScriptedHost,
};
use self_instruct::{Config, Mode, SelfInstruct};

fn started(config: Config) -> SelfInstruct {
    let mut plugin = SelfInstruct::configure(config).unwrap();
    let seeds = (0..20).map(|n| Task::new(format!("Seed task {n}."), "", "Done."));
    plugin.start(seeds.collect()).unwrap();
    plugin
}

fn alpaca_2023() -> Config {
    Config {
        mode: Mode::Alpaca2023,
        ..Config::default()
    }
}

fn unit(seed: u64) -> Unit {
    Unit {
        index: seed,
        seed,
        accepted: 0,
    }
}

fn instructions(proposals: &Proposals) -> Vec<&str> {
    let texts = proposals
        .candidates
        .iter()
        .map(|candidate| match &candidate.payload {
            Payload::Task(task) => task.instruction.as_str(),
            Payload::Chat(_) => panic!("a conversation"),
        });
    texts.collect()
}

const TWO_BLOCKS: &str = " Name a river.\n4. Input:\n<noinput>\n4. Output:\nThe Rhône.\n###\n\
                          5. Instruction: Name a hill.\n5. Input:\n<noinput>\n5. Output:\nUetliberg.\n";

const ONE_TASK: &str = r#"{"tasks":[{"instruction":"Name a river.","input":"","output":"Po."}]}"#;

#[test]
fn candidates_say_where_they_were_read_and_what_they_came_from() {
    let host = ScriptedHost::new().reply(TWO_BLOCKS);
    let proposals = started(alpaca_2023()).generate(unit(1), &host).unwrap();
    assert_eq!(instructions(&proposals), ["Name a river.", "Name a hill."]);
    let second = &proposals.candidates[1];
    let place = second.place.unwrap();
    let bytes = place.start as usize..place.end as usize;
    assert!(TWO_BLOCKS[bytes].starts_with("\n5. Instruction: Name a hill."));
    assert_eq!(second.attributes[0].value, "alpaca-2023");
    assert_eq!(second.parents.len(), 3);

    let Prompt::Completion(prompt) = &host.requests()[0].1.prompt else {
        panic!("a conversation");
    };
    for parent in &second.parents {
        let Origin::Seed(line) = parent else {
            panic!("only seeds are shown");
        };
        assert!(prompt.contains(&format!("Instruction: Seed task {line}.\n")));
    }
}

#[test]
fn the_seed_of_the_unit_decides_what_is_asked() {
    let asked = |seed| {
        let host = ScriptedHost::new().reply(ONE_TASK);
        started(Config::default())
            .generate(unit(seed), &host)
            .unwrap();
        host.requests()
    };
    assert_eq!(asked(5), asked(5));
    assert_ne!(asked(5), asked(6));
}

#[test]
fn a_prompt_too_long_for_the_model_is_sent_again_with_fewer_tokens() {
    let too_long = || Error::new("request-refused", "... Please reduce your prompt; or ...");
    let host = ScriptedHost::new()
        .failure(too_long())
        .failure(too_long())
        .reply(TWO_BLOCKS);
    let proposals = started(alpaca_2023()).generate(unit(1), &host).unwrap();
    let requests = host.requests();
    let tokens: Vec<_> = requests
        .iter()
        .map(|(_, request)| request.max_tokens)
        .collect();
    assert_eq!(tokens, [Some(3072), Some(2457), Some(1965)]);
    assert_eq!(proposals.candidates[0].place.unwrap().ordinal, 2);
}

#[test]
fn a_prompt_that_never_fits_fails_the_unit() {
    let too_long = Error::new(
        "request-refused",
        "This model's maximum context length is 8",
    );
    let host = (0..99).fold(ScriptedHost::new(), |host, _| {
        host.failure(too_long.clone())
    });
    let error = started(alpaca_2023()).generate(unit(1), &host).unwrap_err();
    assert_eq!(error.code, "request-refused");
    assert!(host.requests().len() < 30);
}

#[test]
fn one_failed_request_of_several_does_not_hide_the_others() {
    let config = Config {
        requests_per_unit: 3,
        ..Config::default()
    };
    let host = ScriptedHost::new()
        .reply(ONE_TASK)
        .failure(Error::new("request-refused", "no"))
        .reply(ONE_TASK);
    let proposals = started(config).generate(unit(1), &host).unwrap();
    let places: Vec<Place> = proposals
        .candidates
        .iter()
        .filter_map(|c| c.place)
        .collect();
    assert_eq!((places[0].ordinal, places[1].ordinal), (0, 2));
    assert_eq!(proposals.rejects[0].code, "request-failed");
    assert_eq!(proposals.rejects[0].message, "request-refused: no");
}

#[test]
fn rejects_point_into_the_reply() {
    let text = format!("{ONE_TASK}\n{{\"instruction\": \"Cut");
    let host = ScriptedHost::new().cut_reply(&text);
    let proposals = started(Config::default()).generate(unit(1), &host).unwrap();
    assert_eq!(instructions(&proposals), ["Name a river."]);
    let reject = &proposals.rejects[0];
    assert_eq!(reject.code, "cut-by-length");
    let place = reject.place.unwrap();
    assert_eq!(&text[place.start as usize..], "{\"instruction\": \"Cut");
}

#[test]
fn accepted_examples_are_parents_by_their_id() {
    let config = Config {
        demonstrations: 1,
        examples_from_accepted: 1,
        ..Config::default()
    };
    let id = CandidateId { unit: 7, n: 2 };
    let host = ScriptedHost::new()
        .reply(ONE_TASK)
        .with_accepted(vec![Example {
            id,
            payload: Payload::Task(Task::new("Accepted.", "", "Yes.")),
        }]);
    let unit = Unit {
        accepted: 1,
        ..unit(1)
    };
    let proposals = started(config).generate(unit, &host).unwrap();
    assert_eq!(proposals.candidates[0].parents, [Origin::Candidate(id)]);
}

#[test]
fn a_model_without_logit_bias_is_told_of_once() {
    let host = ScriptedHost::new().reply(TWO_BLOCKS).reply(TWO_BLOCKS);
    let mut plugin = started(alpaca_2023());
    plugin.generate(unit(1), &host).unwrap();
    plugin.generate(unit(2), &host).unwrap();
    let [(level, line)] = &host.log_lines()[..] else {
        panic!("one line expected: {:?}", host.log_lines());
    };
    assert_eq!(*level, Level::Warn);
    assert!(line.contains("takes no logit_bias"), "{line}");
}

#[test]
fn too_few_seeds_stop_the_run_before_it_begins() {
    let mut plugin = SelfInstruct::configure(Config::default()).unwrap();
    let error = plugin.start(vec![Task::new("One.", "", "1")]).unwrap_err();
    assert_eq!(
        error.message,
        "each request shows 3 seed tasks and the seed file has 1: add seeds, or lower `demonstrations`"
    );
}

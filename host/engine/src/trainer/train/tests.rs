mod card;
mod ranks;

use std::fs;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::trainer::collective::Alone;
use crate::trainer::config::{
    DtypeSetting, LrScheduler, MicroBatchTokens, RecomputeSetting, TrainDtype,
};
use crate::trainer::device::DeviceKind;
use crate::trainer::lora::LoraConfig;
use crate::trainer::operations::{CpuOperations, Operations};
use crate::trainer::plan::Room;
use crate::trainer::plan::Split;
use crate::trainer::prefixes::SharedPrefixes;
use crate::trainer::testing::{alike_rows, tiny_config, tiny_parameters, tiny_rows, values};

static NEVER: AtomicBool = AtomicBool::new(false);

fn config() -> TrainConfig {
    TrainConfig {
        batch_size: 4,
        max_steps: Some(6),
        micro_batch_tokens: MicroBatchTokens::Tokens(32),
        max_seq_len: 32,
        learning_rate: 1e-2,
        warmup_ratio: 0.2,
        checkpoint_every: 2,
        eval_every: 3,
        ..TrainConfig::default()
    }
}

const ROOM: Room = Room {
    kind: DeviceKind::Cpu,
    available_bytes: None,
    ranks: 1,
};

struct Run {
    device: ComputeDevice,
    dir: tempfile::TempDir,
    model: LlamaConfig,
    config: TrainConfig,
    rows: Vec<Row>,
    held_out: Vec<Row>,
    threads: usize,
}

impl Run {
    fn new(config: TrainConfig) -> Self {
        Self {
            device: ComputeDevice::cpu(),
            dir: tempfile::tempdir().unwrap(),
            model: tiny_config(true),
            config,
            rows: tiny_rows(10, 7),
            held_out: tiny_rows(3, 8),
            threads: 2,
        }
    }

    fn split(&self, config: &TrainConfig) -> Split {
        let room = Room {
            kind: self.device.kind,
            ..ROOM
        };
        Split::choose(&self.model, config, 32, room)
    }

    fn go(
        &self,
        observer: &mut dyn TrainObserver,
        cancel: &AtomicBool,
    ) -> Result<TrainOutcome, TrainError> {
        let weights = tiny_parameters(&self.model, 1).into_weights().unwrap();
        self.go_from(weights, observer, cancel)
    }

    fn go_from(
        &self,
        weights: Weights,
        observer: &mut dyn TrainObserver,
        cancel: &AtomicBool,
    ) -> Result<TrainOutcome, TrainError> {
        let job = TrainJob {
            model: &self.model,
            config: &self.config,
            rows: &self.rows,
            held_out: &self.held_out,
            dir: self.dir.path(),
            cancel,
            device: &self.device,
            split: self.split(&self.config),
            threads: self.threads,
            ranks: &Alone,
        };
        train(&job, weights, observer)
    }
}

/// Keeps what was reported, and can stop or crash the run.
#[derive(Default)]
struct Recorder {
    started: Vec<(u64, u64)>,
    steps: Vec<StepRecord>,
    held_out: Vec<HeldOutLoss>,
    checkpoints: Vec<u64>,
    notices: Vec<String>,
    points: Vec<String>,
    cancel_after: Option<(u64, &'static AtomicBool)>,
    crash_at: Option<(&'static str, usize)>,
}

impl TrainObserver for Recorder {
    fn on_start(&mut self, steps_done: u64, total_steps: u64) {
        self.started.push((steps_done, total_steps));
    }

    fn on_step(&mut self, record: &StepRecord) {
        self.steps.push(record.clone());
        if let Some((step, flag)) = self.cancel_after
            && record.step == step
        {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn on_held_out(&mut self, record: &HeldOutLoss) {
        self.held_out.push(record.clone());
    }

    fn on_checkpoint(&mut self, step: u64, _: &Path) {
        self.checkpoints.push(step);
    }

    fn on_notice(&mut self, sentence: &str) {
        self.notices.push(sentence.to_owned());
    }

    fn on_point(&mut self, name: &str) {
        self.points.push(name.to_owned());
        if let Some((point, count)) = self.crash_at
            && name == point
            && self.points.iter().filter(|p| *p == point).count() == count
        {
            panic!("killed at {name}");
        }
    }
}

fn bits(outcome: &TrainOutcome) -> Vec<u32> {
    let trained = values(outcome.student.trained());
    trained.into_iter().map(f32::to_bits).collect()
}

fn numbers(records: &[StepRecord]) -> Vec<StepRecord> {
    let timeless = |r: &StepRecord| StepRecord {
        seconds: 0.0,
        ..r.clone()
    };
    records.iter().map(timeless).collect()
}

#[test]
fn a_stopped_run_goes_on_to_the_bit() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let whole = Run::new(config());
    let mut recorder = Recorder::default();
    let want = whole.go(&mut recorder, &NEVER).unwrap();
    assert_eq!(recorder.started, [(0, 6)]);
    assert_eq!(recorder.checkpoints, [2, 4, 6]);
    assert_eq!(numbers(&recorder.steps), numbers(&want.history));
    assert!(want.history[5].loss < want.history[0].loss);

    let parts = Run::new(config());
    let mut first = Recorder {
        cancel_after: Some((3, &STOP)),
        ..Recorder::default()
    };
    let error = parts.go(&mut first, &STOP).unwrap_err();
    assert_eq!(
        error.to_string(),
        "training was stopped after step 3 of 6; run again to go on from there"
    );
    assert_eq!(first.checkpoints, [2, 3]);
    let mut second = Recorder::default();
    // Other weights: a resumed run takes them from its checkpoint.
    let others = tiny_parameters(&parts.model, 99).into_weights().unwrap();
    let got = parts.go_from(others, &mut second, &NEVER).unwrap();
    assert_eq!((got.resumed_from, second.started), (3, vec![(3, 6)]));
    assert_eq!(bits(&got), bits(&want));
    assert_eq!(numbers(&got.history), numbers(&want.history));
    assert_eq!(second.steps[0].step, 4);
    let measured = |outcome: &TrainOutcome| -> Vec<(u64, f64)> {
        outcome.held_out.iter().map(|m| (m.step, m.loss)).collect()
    };
    assert_eq!(measured(&got), measured(&want));
    assert_eq!(
        measured(&got).iter().map(|m| m.0).collect::<Vec<_>>(),
        [0, 3, 6]
    );
}

/// Stops a run after its second step, lets `between` change its checkpoint, and runs it to the end.
fn stopped_and_resumed(run: &Run, between: impl FnOnce(&Path)) -> TrainOutcome {
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let mut first = Recorder {
        cancel_after: Some((2, stop)),
        ..Recorder::default()
    };
    run.go(&mut first, stop).unwrap_err();
    between(&run.dir.path().join("checkpoints/step-000002"));
    let mut second = Recorder::default();
    let outcome = run.go(&mut second, &NEVER).unwrap();
    assert_eq!((outcome.resumed_from, second.notices), (2, vec![]));
    outcome
}

/// Makes a checkpoint another one that is as whole.
fn rewrite_state(checkpoint: &Path, change: impl FnOnce(&mut Value)) {
    let [state, manifest] = ["state.json", "manifest.json"].map(|name| checkpoint.join(name));
    let read = |path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let mut old = read(&state);
    change(&mut old);
    let old = old.to_string();
    let mut files = read(&manifest);
    let record = &mut files["files"]["state.json"];
    record["sha256"] = crate::digest::hex(&Sha256::digest(&old)).into();
    record["bytes"] = old.len().into();
    fs::write(&state, old).unwrap();
    fs::write(&manifest, files.to_string()).unwrap();
}

#[test]
fn shared_prefixes_are_kept_in_the_checkpoint_and_used_again() {
    let alike = || {
        let mut run = Run::new(config());
        run.rows = alike_rows(10, 7);
        run.held_out = alike_rows(13, 8).split_off(10);
        run
    };
    let want = alike().go(&mut Recorder::default(), &NEVER).unwrap();
    let prefixes = &want.numeric_path.shared_prefixes;
    assert_eq!(prefixes, &SharedPrefixes::of(&alike_rows(10, 7)));
    assert_eq!(prefixes.tokens().count(), 2);
    let got = stopped_and_resumed(&alike(), |_| {});
    assert_eq!(bits(&got), bits(&want));
    assert_eq!(numbers(&got.history), numbers(&want.history));

    let mut one_thread = alike();
    one_thread.threads = 1;
    let one_thread = one_thread.go(&mut Recorder::default(), &NEVER).unwrap();
    assert_eq!(bits(&one_thread), bits(&want));

    // A checkpoint of a run that shared nothing, as those from before there was sharing.
    let got = stopped_and_resumed(&alike(), |checkpoint| {
        rewrite_state(checkpoint, |old| {
            let path = old["numeric_path"].as_object_mut().unwrap();
            assert!(path.remove("shared_prefixes").is_some());
        });
    });
    assert_eq!(got.numeric_path.shared_prefixes, SharedPrefixes::none());
    assert_ne!(bits(&got), bits(&want), "the order of sums is another");
    for (a, b) in got.history.iter().zip(&want.history) {
        assert!((a.loss - b.loss).abs() < 1e-5, "{} {}", a.loss, b.loss);
        assert_eq!((a.tokens, a.label_tokens), (b.tokens, b.label_tokens));
    }
}

#[test]
fn instructions_of_bf16_are_those_that_the_run_began_with() {
    let resumed_as = |name: &str| {
        static STOP: AtomicBool = AtomicBool::new(false);
        STOP.store(false, Ordering::Relaxed);
        let run = Run::new(TrainConfig {
            dtype: DtypeSetting::Bf16,
            ..config()
        });
        let mut first = Recorder {
            cancel_after: Some((2, &STOP)),
            ..Recorder::default()
        };
        run.go(&mut first, &STOP).unwrap_err();
        let checkpoint = run.dir.path().join("checkpoints/step-000002");
        rewrite_state(&checkpoint, |state| {
            state["numeric_path"]["instructions"] = name.into();
        });
        let mut second = Recorder::default();
        let outcome = run.go(&mut second, &NEVER).unwrap();
        assert_eq!(outcome.resumed_from, 2);
        let changed = second
            .notices
            .iter()
            .any(|notice| notice.contains("the last digits will not be"));
        (outcome.numeric_path.instructions, changed)
    };
    let quickest = CpuOperations::new(TrainDtype::Bf16).instructions();
    assert_eq!(resumed_as(&quickest), (quickest.clone(), false));
    // Every machine can do without, and this is what a run of another machine goes on with.
    let without = CpuOperations::new(TrainDtype::F32).instructions();
    assert_eq!(resumed_as(&without), (without.clone(), false));
    assert_eq!(resumed_as("riscv64 zvfbfwma"), (quickest, true));
}

#[test]
fn a_run_killed_at_any_named_instant_ends_the_same() {
    let want = Run::new(config())
        .go(&mut Recorder::default(), &NEVER)
        .unwrap();
    for point in [
        "step:after",
        "checkpoint:mid-write",
        "checkpoint:before-rename",
        "checkpoint:after-rename",
    ] {
        for count in [1, 2, 3] {
            let run = Run::new(config());
            let crash = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut observer = Recorder {
                    crash_at: Some((point, count)),
                    ..Recorder::default()
                };
                run.go(&mut observer, &NEVER)
            }));
            assert!(crash.is_err(), "{point} came {count} times");
            let got = run.go(&mut Recorder::default(), &NEVER).unwrap();
            assert_eq!(bits(&got), bits(&want), "{point} {count}");
            assert_eq!(numbers(&got.history), numbers(&want.history));
        }
    }
}

#[test]
fn adapters_are_trained_stopped_and_gone_on_with_to_the_bit() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let with_adapters = || TrainConfig {
        lora: Some(LoraConfig {
            r: 2,
            ..LoraConfig::default()
        }),
        // Every step is over the same rows.
        batch_size: 10,
        epochs: 6,
        max_steps: None,
        learning_rate: 0.02,
        ..config()
    };
    let whole = Run::new(with_adapters());
    let want = whole.go(&mut Recorder::default(), &NEVER).unwrap();
    assert!(
        want.history[5].loss < want.history[0].loss - 0.01,
        "{:?}",
        want.history
    );
    let untouched = values(&tiny_parameters(&whole.model, 1));
    assert_eq!(values(&want.student.base), untouched);

    let parts = Run::new(with_adapters());
    let mut first = Recorder {
        cancel_after: Some((3, &STOP)),
        ..Recorder::default()
    };
    parts.go(&mut first, &STOP).unwrap_err();
    let got = parts.go(&mut Recorder::default(), &NEVER).unwrap();
    assert_eq!(got.resumed_from, 3);
    assert_eq!(bits(&got), bits(&want));
    // Two layers, two matrices each: what a checkpoint holds is small.
    let saved = fs::metadata(got.checkpoint.join("model.safetensors")).unwrap();
    assert!(saved.len() < 4000, "{}", saved.len());

    let mut other = Run::new(config());
    std::mem::swap(&mut other.dir, &mut { parts }.dir);
    let text = other
        .go(&mut Recorder::default(), &NEVER)
        .unwrap_err()
        .to_string();
    assert!(text.contains("trainer.lora was {"), "{text}");
}

/// Adapters with so much dropout.
fn with_dropout(lora_dropout: f64) -> TrainConfig {
    TrainConfig {
        lora: Some(LoraConfig {
            r: 2,
            lora_dropout,
            ..LoraConfig::default()
        }),
        ..config()
    }
}

#[test]
fn runs_from_before_dropout_go_on_without_to_the_bit() {
    let go = |run: &Run| run.go(&mut Recorder::default(), &NEVER);
    let without = go(&Run::new(with_dropout(0.0))).unwrap();
    let with = go(&Run::new(with_dropout(0.05))).unwrap();
    assert_ne!(bits(&with), bits(&without));
    assert_eq!(
        with.student.adapters.as_ref().unwrap().config.lora_dropout,
        0.05
    );

    // As such a run left its checkpoint.
    let old = || {
        let run = Run::new(with_dropout(0.0));
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let mut first = Recorder {
            cancel_after: Some((2, stop)),
            ..Recorder::default()
        };
        run.go(&mut first, stop).unwrap_err();
        rewrite_state(&run.dir.path().join("checkpoints/step-000002"), |state| {
            let identity = state["identity"].as_object_mut().unwrap();
            assert!(identity.remove("lora_dropout").is_some());
            let lora = identity["config"]["lora"].as_object_mut().unwrap();
            assert!(lora.remove("lora_dropout").is_some());
        });
        run
    };
    for said in [0.05, 0.0] {
        let mut run = old();
        run.config = with_dropout(said);
        let got = go(&run).unwrap();
        assert_eq!(got.resumed_from, 2);
        assert_eq!(bits(&got), bits(&without));
        assert_eq!(numbers(&got.history), numbers(&without.history));
        assert_eq!(
            got.student.adapters.as_ref().unwrap().config.lora_dropout,
            0.0
        );
        // What it leaves is gone on with in the same way.
        assert_eq!(bits(&go(&run).unwrap()), bits(&without));
    }
    let mut run = old();
    run.config = with_dropout(0.1);
    let text = go(&run).unwrap_err().to_string();
    assert!(text.contains("\"lora_dropout\":0.1"), "{text}");
}

#[test]
fn a_run_goes_on_with_its_own_dropout_alone() {
    for (begun, said) in [(0.05, 0.0), (0.0, 0.05), (0.1, 0.05)] {
        let mut run = Run::new(with_dropout(begun));
        run.go(&mut Recorder::default(), &NEVER).unwrap();
        run.config = with_dropout(said);
        let error = run.go(&mut Recorder::default(), &NEVER).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("trainer.lora was {"), "{text}");
        assert!(text.contains("\"lora_dropout\":"), "{text}");
    }
}

#[test]
fn threads_and_what_is_computed_again_change_no_bit_under_dropout() {
    let go = |threads, recompute| {
        let mut run = Run::new(TrainConfig {
            recompute,
            ..with_dropout(0.2)
        });
        run.threads = threads;
        run.rows = alike_rows(10, 7);
        bits(&run.go(&mut Recorder::default(), &NEVER).unwrap())
    };
    let want = go(1, RecomputeSetting::None);
    assert_eq!(go(3, RecomputeSetting::None), want);
    assert_eq!(go(2, RecomputeSetting::Elementwise), want);
    assert_eq!(go(2, RecomputeSetting::Layers), want);
}

#[test]
fn what_is_computed_again_changes_no_bit_of_a_run() {
    for dtype in [DtypeSetting::F32, DtypeSetting::Bf16] {
        let go = |recompute| {
            let run = Run::new(TrainConfig {
                recompute,
                dtype,
                ..config()
            });
            run.go(&mut Recorder::default(), &NEVER).unwrap()
        };
        let kept = go(RecomputeSetting::None);
        for recompute in [RecomputeSetting::Elementwise, RecomputeSetting::Layers] {
            let again = go(recompute);
            assert_eq!(bits(&again), bits(&kept));
            assert_eq!(numbers(&again.history), numbers(&kept.history));
        }
    }
}

#[test]
fn a_run_keeps_the_split_that_it_began_with() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let want = Run::new(config())
        .go(&mut Recorder::default(), &NEVER)
        .unwrap();
    let mut run = Run::new(config());
    let mut first = Recorder {
        cancel_after: Some((3, &STOP)),
        ..Recorder::default()
    };
    run.go(&mut first, &STOP).unwrap_err();
    run.config.micro_batch_tokens = MicroBatchTokens::Auto;
    run.config.recompute = RecomputeSetting::Layers;
    let mut second = Recorder::default();
    let got = run.go(&mut second, &NEVER).unwrap();
    assert_eq!(bits(&got), bits(&want));
    assert_eq!(got.numeric_path, want.numeric_path);
    assert!(second.notices.is_empty(), "{:?}", second.notices);
}

#[test]
fn a_finished_run_gives_its_result_again() {
    let run = Run::new(config());
    let want = run.go(&mut Recorder::default(), &NEVER).unwrap();
    let mut recorder = Recorder::default();
    let got = run.go(&mut recorder, &NEVER).unwrap();
    assert_eq!(bits(&got), bits(&want));
    assert_eq!(got.resumed_from, 6);
    assert!(recorder.steps.is_empty() && recorder.held_out.is_empty());
    assert_eq!(got.held_out.len(), 3);
}

#[test]
fn a_damaged_checkpoint_costs_steps_and_nothing_else() {
    let keep_two = TrainConfig {
        keep_checkpoints: 2,
        ..config()
    };
    let run = Run::new(keep_two);
    let want = run.go(&mut Recorder::default(), &NEVER).unwrap();
    fs::write(want.checkpoint.join("adam_m.safetensors"), "gone").unwrap();
    let mut recorder = Recorder::default();
    let got = run.go(&mut recorder, &NEVER).unwrap();
    assert_eq!(got.resumed_from, 4);
    assert!(recorder.notices[0].contains("step-000006 is damaged"));
    assert_eq!(bits(&got), bits(&want));
}

#[test]
fn checkpoints_of_another_run_are_refused_with_the_difference() {
    let mut run = Run::new(config());
    run.go(&mut Recorder::default(), &NEVER).unwrap();
    run.config.learning_rate = 2e-2;
    run.rows.swap(0, 1);
    let error = run.go(&mut Recorder::default(), &NEVER).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("holds checkpoints of another run"), "{text}");
    assert!(
        text.contains("trainer.learning_rate was 0.01 and is now 0.02"),
        "{text}"
    );
    assert!(
        text.contains("the examples or their tokens are not the same"),
        "{text}"
    );
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut run = Run::new(config());
    run.threads = 1;
    let one = run.go(&mut Recorder::default(), &NEVER).unwrap();
    let mut run = Run::new(config());
    run.threads = 3;
    let three = run.go(&mut Recorder::default(), &NEVER).unwrap();
    assert_eq!(bits(&one), bits(&three));
}

#[test]
fn the_split_into_micro_batches_changes_rounding_only() {
    for config in [config(), with_dropout(0.2)] {
        for rows in [tiny_rows(10, 7), alike_rows(10, 7)] {
            let go = |micro_batch_tokens| {
                let mut run = Run::new(TrainConfig {
                    micro_batch_tokens: MicroBatchTokens::Tokens(micro_batch_tokens),
                    ..config.clone()
                });
                run.rows = rows.clone();
                run.go(&mut Recorder::default(), &NEVER).unwrap()
            };
            let (narrow, wide) = (go(32), go(512));
            for (a, b) in narrow.history.iter().zip(&wide.history) {
                assert!((a.loss - b.loss).abs() < 1e-5, "{} {}", a.loss, b.loss);
                assert!((a.grad_norm - b.grad_norm).abs() < 1e-4 * b.grad_norm);
            }
        }
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_examples() {
    let mut run = Run::new(config());
    let from_nothing = |run: &Run| {
        let mut parameters = tiny_parameters(&run.model, 1);
        let embedding = parameters.range("model.embed_tokens.weight").unwrap();
        parameters
            .write(embedding.start, &vec![f32::NAN; embedding.len()])
            .unwrap();
        let weights = parameters.into_weights().unwrap();
        let error = run.go_from(weights, &mut Recorder::default(), &NEVER);
        error.unwrap_err().to_string()
    };
    let text = from_nothing(&run);
    assert!(
        text.starts_with("step 0: the held-out loss is NaN (examples "),
        "{text}"
    );
    run.held_out.clear();
    let text = from_nothing(&run);
    assert!(
        text.starts_with("step 1: the loss is NaN (examples "),
        "{text}"
    );
    assert!(text.contains("no checkpoint was made yet"), "{text}");
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_checkpoint() {
    // With this rate the first step throws the weights out of all bounds.
    let run = Run::new(TrainConfig {
        learning_rate: 1e30,
        warmup_ratio: 0.0,
        checkpoint_every: 1,
        ..config()
    });
    let mut recorder = Recorder::default();
    let error = run.go(&mut recorder, &NEVER).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("step 2: the norm of the gradient is NaN (examples "),
        "{text}"
    );
    assert!(text.contains("the checkpoint of step 1 is whole"), "{text}");
    assert!(text.contains("in a directory of its own"), "{text}");
    assert_eq!(recorder.checkpoints, [1]);
    let kept = CheckpointFolder::at(run.dir.path()).steps().unwrap();
    assert_eq!(kept, [1]);
}

#[test]
fn impossible_jobs_are_refused_before_anything_is_done() {
    let mut run = Run::new(config());
    run.rows[4].input_ids[0] = 61;
    let text = run
        .go(&mut Recorder::default(), &NEVER)
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "example 4 cannot be trained on: token 61 is outside the student's vocabulary of 61; it was made with another tokenizer"
    );
    run.rows[4].input_ids[0] = 1;
    run.rows[2].label_mask.fill(false);
    let text = run
        .go(&mut Recorder::default(), &NEVER)
        .unwrap_err()
        .to_string();
    assert!(text.contains("example 2 cannot be trained on: no token of it is a label"));
    run.rows.clear();
    let error = run.go(&mut Recorder::default(), &NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NoRows));
    run.config.batch_size = 0;
    run.config.max_seq_len = 0;
    let text = run
        .go(&mut Recorder::default(), &NEVER)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("\n  - batch_size is 0;") && text.contains("\n  - max_seq_len is 0;"),
        "{text}"
    );
    assert!(!run.dir.path().join("checkpoints").exists());
}

/// The whole trainer against PyTorch 2.15 and transformers 5.23: step, loss, norm of the gradient,
/// printed by `tests/peers/train_reference.py`.
#[test]
fn losses_equal_those_of_pytorch_over_fifty_steps() {
    for (tied, expected) in [(true, PYTORCH_TIED), (false, PYTORCH_UNTIED)] {
        let mut run = Run::new(TrainConfig {
            batch_size: 12,
            epochs: 50,
            max_steps: None,
            micro_batch_tokens: MicroBatchTokens::Tokens(48),
            learning_rate: 3e-3,
            lr_scheduler: LrScheduler::Cosine,
            warmup_ratio: 0.1,
            weight_decay: 0.01,
            checkpoint_every: 100,
            ..config()
        });
        run.model = tiny_config(tied);
        run.rows = tiny_rows(12, 12);
        let weights = tiny_parameters(&run.model, 11).into_weights().unwrap();
        let outcome = run
            .go_from(weights, &mut Recorder::default(), &NEVER)
            .unwrap();
        for (step, loss, grad_norm) in expected {
            let record = &outcome.history[step - 1];
            let difference = (record.loss - loss).abs();
            assert!(difference < 1e-5, "step {step}: {} {loss}", record.loss);
            let difference = (record.grad_norm - grad_norm).abs();
            assert!(
                difference < 1e-4,
                "step {step}: {} {grad_norm}",
                record.grad_norm
            );
        }
    }
}

const PYTORCH_TIED: [(usize, f64, f64); 10] = [
    (1, 4.300839, 1.691437),
    (2, 4.300839, 1.691437),
    (3, 4.234206, 1.577752),
    (5, 3.957293, 1.295721),
    (10, 3.166507, 1.054707),
    (15, 2.609122, 0.9291621),
    (20, 2.163383, 0.8703144),
    (30, 1.554246, 0.7694361),
    (40, 1.286066, 0.6978456),
    (50, 1.233242, 0.6734291),
];

const PYTORCH_UNTIED: [(usize, f64, f64); 10] = [
    (1, 4.377678, 1.661736),
    (2, 4.377678, 1.661736),
    (3, 4.303296, 1.662943),
    (5, 3.964922, 1.402907),
    (10, 3.08104, 1.180713),
    (15, 2.42879, 0.9929721),
    (20, 1.928815, 0.8849187),
    (30, 1.34647, 0.7586975),
    (40, 1.11357, 0.6424993),
    (50, 1.07087, 0.618085),
];

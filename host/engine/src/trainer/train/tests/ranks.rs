//! Several ranks against one, as threads of this process and over TCP.

use std::net::TcpListener;
use std::thread;

use super::*;
use crate::trainer::collective::{InProcess, Patience, Tcp};
use crate::trainer::config::DtypeSetting;
use crate::trainer::parameters::NumberFormat;

/// What one rank came to.
struct Came {
    result: Result<TrainOutcome, TrainError>,
    told: Recorder,
}

impl Run {
    /// The job of one rank; `change` may make it another.
    fn go_as(
        &self,
        ranks: &dyn Collective,
        change: &(dyn Fn(usize, &mut TrainConfig, &mut ParameterSet) + Sync),
        mut told: Recorder,
    ) -> Came {
        let mut config = self.config.clone();
        let mut parameters = tiny_parameters(&self.model, 1);
        change(ranks.rank(), &mut config, &mut parameters);
        let cancel = told.cancel_after.map_or(&NEVER, |(_, flag)| flag);
        let job = TrainJob {
            model: &self.model,
            config: &config,
            rows: &self.rows,
            held_out: &self.held_out,
            dir: self.dir.path(),
            cancel,
            device: &self.device,
            split: self.split(&config),
            threads: 1,
            ranks,
        };
        let weights = parameters.into_weights().unwrap();
        let result = train(&job, weights, &mut told);
        Came { result, told }
    }

    fn go_on(&self, count: usize, first: Recorder) -> Vec<Came> {
        self.go_on_with(InProcess::world(count), first, &|_, _, _| {})
    }

    /// One thread for each rank; `first` is told what rank 0 does.
    fn go_on_with<C: Collective>(
        &self,
        world: Vec<C>,
        first: Recorder,
        change: &(dyn Fn(usize, &mut TrainConfig, &mut ParameterSet) + Sync),
    ) -> Vec<Came> {
        let mut first = Some(first);
        thread::scope(|scope| {
            let ranks: Vec<_> = world
                .into_iter()
                .map(|rank| {
                    let told = first.take().unwrap_or_default();
                    scope.spawn(move || self.go_as(&rank, change, told))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }
}

/// The outcome of rank 0, which alone was told; all ranks have the same model.
fn of_all(ranks: Vec<Came>) -> (TrainOutcome, Recorder) {
    let mut ranks = ranks.into_iter();
    let first = ranks.next().unwrap();
    let outcome = first.result.unwrap();
    for other in ranks {
        let result = other.result.unwrap();
        assert_eq!(bits(&result), bits(&outcome));
        assert_eq!(losses(&result), losses(&outcome));
        let told = other.told;
        assert!(told.started.is_empty() && told.steps.is_empty() && told.notices.is_empty());
        assert!(told.checkpoints.is_empty() && told.points.is_empty());
    }
    (outcome, first.told)
}

fn losses(outcome: &TrainOutcome) -> Vec<f64> {
    outcome.history.iter().map(|step| step.loss).collect()
}

#[track_caller]
fn assert_near(got: &TrainOutcome, want: &TrainOutcome) {
    for (a, b) in got.history.iter().zip(&want.history) {
        assert!((a.loss - b.loss).abs() < 1e-5, "{} {}", a.loss, b.loss);
        assert!((a.grad_norm - b.grad_norm).abs() < 1e-5 * b.grad_norm.max(1.0));
        assert_eq!(
            (a.step, a.tokens, a.label_tokens),
            (b.step, b.tokens, b.label_tokens)
        );
        assert_eq!((a.learning_rate, a.epoch), (b.learning_rate, b.epoch));
    }
    assert_eq!(got.history.len(), want.history.len());
    for (a, b) in got.held_out.iter().zip(&want.held_out) {
        assert!((a.loss - b.loss).abs() < 1e-5, "{} {}", a.loss, b.loss);
        assert_eq!((a.step, a.label_tokens), (b.step, b.label_tokens));
    }
    assert_eq!(got.held_out.len(), want.held_out.len());
    let (a, b) = (
        values(got.student.trained()),
        values(want.student.trained()),
    );
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-5, "weights differ: {a} {b}");
    }
}

fn with_adapters() -> TrainConfig {
    TrainConfig {
        lora: Some(LoraConfig {
            r: 2,
            ..LoraConfig::default()
        }),
        ..config()
    }
}

#[test]
fn ranks_train_what_one_does() {
    for config in [config(), with_adapters()] {
        for rows in [tiny_rows(10, 7), alike_rows(10, 7)] {
            let run = || {
                let mut run = Run::new(config.clone());
                run.rows.clone_from(&rows);
                run
            };
            let want = run().go(&mut Recorder::default(), &NEVER).unwrap();
            for count in [2, 4] {
                let (got, told) = of_all(run().go_on(count, Recorder::default()));
                assert_near(&got, &want);
                assert_eq!(got.numeric_path.world_size, count);
                assert_eq!(
                    (told.started, told.checkpoints),
                    (vec![(0, 6)], vec![2, 4, 6])
                );
                assert_eq!(numbers(&told.steps), numbers(&got.history));
            }
        }
    }
}

#[test]
fn ranks_over_tcp_train_what_one_does() {
    let want = Run::new(config())
        .go(&mut Recorder::default(), &NEVER)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Patience::default();
    let second = thread::spawn(move || Tcp::connect(address, 1, 2, "", patience).unwrap());
    let first = Tcp::listen(&listener, 2, "", patience).unwrap();
    let world = vec![first, second.join().unwrap()];
    let run = Run::new(config());
    let (got, _) = of_all(run.go_on_with(world, Recorder::default(), &|_, _, _| {}));
    assert_near(&got, &want);
    let (in_process, _) = of_all(Run::new(config()).go_on(2, Recorder::default()));
    assert_eq!(bits(&got), bits(&in_process));
}

/// Stops a run of so many ranks after its third step; only rank 0 is asked to.
fn stopped(config: TrainConfig, count: usize) -> Run {
    stop(Run::new(config), count)
}

fn stop(run: Run, count: usize) -> Run {
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let first = Recorder {
        cancel_after: Some((3, stop)),
        ..Recorder::default()
    };
    for came in run.go_on(count, first) {
        assert_eq!(
            came.result.unwrap_err().to_string(),
            "training was stopped after step 3 of 6; run again to go on from there"
        );
    }
    run
}

#[test]
fn two_ranks_that_were_stopped_go_on_to_the_bit() {
    for config in [config(), with_adapters()] {
        let (want, _) = of_all(Run::new(config.clone()).go_on(2, Recorder::default()));
        let run = stopped(config, 2);
        let (got, told) = of_all(run.go_on(2, Recorder::default()));
        assert_eq!((got.resumed_from, told.notices), (3, vec![]));
        assert_eq!(bits(&got), bits(&want));
        assert_eq!(numbers(&got.history), numbers(&want.history));
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let alone = Run::new(config())
        .go(&mut Recorder::default(), &NEVER)
        .unwrap();
    for (before, after, said) in [
        (2, 1, "computed by 2 ranks, and one rank go on"),
        (2, 4, "computed by 2 ranks, and 4 ranks go on"),
        (1, 3, "computed by one rank, and 3 ranks go on"),
    ] {
        let run = stopped(config(), before);
        let (got, told) = of_all(run.go_on(after, Recorder::default()));
        assert_eq!(got.resumed_from, 3);
        assert_eq!(got.numeric_path.world_size, after);
        assert!(told.notices[0].contains(said), "{:?}", told.notices);
        assert!(told.notices[0].contains("the last digits will not be"));
        assert_near(&got, &alone);
    }
}

#[test]
fn a_finished_run_of_ranks_gives_its_result_again() {
    let run = Run::new(config());
    let (want, _) = of_all(run.go_on(2, Recorder::default()));
    let (got, told) = of_all(run.go_on(2, Recorder::default()));
    assert_eq!(bits(&got), bits(&want));
    assert!(told.steps.is_empty() && told.checkpoints.is_empty());
}

#[test]
fn the_error_of_one_rank_ends_all() {
    let mut run = Run::new(config());
    run.held_out.clear();
    let broken = |rank: usize, _: &mut TrainConfig, weights: &mut ParameterSet| {
        if rank == 1 {
            let count = weights.range("model.embed_tokens.weight").unwrap().len();
            weights.write(0, &vec![f32::NAN; count]).unwrap();
        }
    };
    let came = run.go_on_with(InProcess::world(3), Recorder::default(), &broken);
    let errors = came.into_iter().map(|c| c.result.unwrap_err().to_string());
    let errors: Vec<String> = errors.collect();
    assert!(
        errors[1].starts_with("step 1: the loss is NaN (examples "),
        "{errors:?}"
    );
    for other in [&errors[0], &errors[2]] {
        assert_eq!(other, &format!("rank 1 stopped: {}", errors[1]));
    }
}

#[test]
fn a_rank_that_dies_ends_the_others() {
    let run = Run::new(config());
    let change = |rank: usize, _: &mut TrainConfig, _: &mut ParameterSet| {
        assert!(rank != 1, "killed");
    };
    let results = thread::scope(|scope| {
        let ranks: Vec<_> = InProcess::world(3)
            .into_iter()
            .map(|rank| {
                let (run, change) = (&run, &change);
                scope.spawn(move || run.go_as(&rank, change, Recorder::default()))
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join())
            .collect::<Vec<_>>()
    });
    for (rank, result) in results.into_iter().enumerate() {
        match (rank, result) {
            (1, result) => assert!(result.is_err(), "it panicked"),
            (_, result) => {
                let error = result.unwrap().result.unwrap_err().to_string();
                assert!(error.starts_with("rank 1 is gone"), "{error}");
            }
        }
    }
}

#[test]
fn a_rank_with_other_settings_is_refused_and_one_with_another_split_is_not() {
    let run = Run::new(config());
    let other = |rank: usize, config: &mut TrainConfig, _: &mut ParameterSet| {
        if rank == 1 {
            config.learning_rate = 2e-2;
        }
    };
    let came = run.go_on_with(InProcess::world(2), Recorder::default(), &other);
    let errors = came.into_iter().map(|c| c.result.unwrap_err().to_string());
    let errors: Vec<String> = errors.collect();
    assert_eq!(
        errors[1],
        "rank 1 was started otherwise than rank 0: at rank 0 and here, trainer.learning_rate was 0.01 and is \
         now 0.02. Start every rank with the same program, settings and files"
    );
    assert_eq!(errors[0], format!("rank 1 stopped: {}", errors[1]));
    assert!(!run.dir.path().join("checkpoints/step-000002").exists());

    let (want, _) = of_all(Run::new(config()).go_on(2, Recorder::default()));
    let less_memory = |rank: usize, config: &mut TrainConfig, _: &mut ParameterSet| {
        if rank == 1 {
            config.micro_batch_tokens = MicroBatchTokens::Tokens(64);
            config.recompute = RecomputeSetting::Layers;
        }
    };
    let run = Run::new(config());
    let came = run.go_on_with(InProcess::world(2), Recorder::default(), &less_memory);
    let (got, _) = of_all(came);
    assert_eq!(bits(&got), bits(&want));
}

/// As where the run's directory is on the disk of one machine.
#[test]
fn a_rank_that_does_not_see_the_checkpoint_is_refused() {
    let run = stopped(config(), 2);
    let elsewhere = Run::new(config());
    let runs = [&run, &elsewhere];
    let errors: Vec<String> = thread::scope(|scope| {
        let ranks: Vec<_> = InProcess::world(2)
            .into_iter()
            .zip(runs)
            .map(|(rank, run)| {
                scope.spawn(move || run.go_as(&rank, &|_, _, _| {}, Recorder::default()))
            })
            .collect();
        let came = ranks.into_iter().map(|rank| rank.join().unwrap());
        came.map(|came| came.result.unwrap_err().to_string())
            .collect()
    });
    let expected = "rank 0 found the checkpoint of step 3, this one no checkpoint";
    assert!(errors[1].contains(expected), "{errors:?}");
    assert!(errors[0].starts_with("rank 1 stopped: "), "{errors:?}");
}

/// In the formats of a card, which is emulated: weights in halves of which a rank knows the low ones of
/// its own part alone until they are saved, gradients and moments in bf16.
#[test]
fn ranks_on_cards_train_what_one_does() {
    let on_cards = |dtype| {
        let mut run = Run::new(TrainConfig {
            dtype,
            moments_dtype: DtypeSetting::Auto,
            ..config()
        });
        if dtype == DtypeSetting::Bf16 {
            run.config.moments_dtype = DtypeSetting::Bf16;
        }
        run.device = ComputeDevice {
            kind: DeviceKind::Cuda,
            ..ComputeDevice::cpu()
        };
        run
    };
    let exact = || on_cards(DtypeSetting::F32);
    let want = exact().go(&mut Recorder::default(), &NEVER).unwrap();
    let (got, _) = of_all(exact().go_on(3, Recorder::default()));
    assert_near(&got, &want);

    let rounded = || on_cards(DtypeSetting::Bf16);
    let want = rounded().go(&mut Recorder::default(), &NEVER).unwrap();
    let (two, _) = of_all(rounded().go_on(2, Recorder::default()));
    assert_eq!(two.student.base.format(), NumberFormat::Split);
    assert_eq!(two.numeric_path.moments, NumberFormat::Bf16);
    for (a, b) in losses(&two).into_iter().zip(losses(&want)) {
        assert!((a - b).abs() < 1e-2, "{a} {b}");
    }
    let run = stop(rounded(), 2);
    let (resumed, told) = of_all(run.go_on(2, Recorder::default()));
    assert_eq!((resumed.resumed_from, told.notices), (3, vec![]));
    assert_eq!(bits(&resumed), bits(&two));
    let run = stop(rounded(), 2);
    let (four, _) = of_all(run.go_on(4, Recorder::default()));
    for (a, b) in losses(&four).into_iter().zip(losses(&want)) {
        assert!((a - b).abs() < 1e-2, "{a} {b}");
    }
}

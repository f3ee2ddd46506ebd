//! Whole runs on a card, which is emulated: its kernels, its formats and all that is around them; and what
//! the processor shares of the formats.

use super::*;
use crate::trainer::parameters::NumberFormat;

fn on_a_card(dtype: DtypeSetting, moments_dtype: DtypeSetting) -> Run {
    let mut run = Run::new(TrainConfig {
        dtype,
        moments_dtype,
        ..config()
    });
    run.device = ComputeDevice {
        kind: DeviceKind::Cuda,
        ..ComputeDevice::cpu()
    };
    run
}

fn losses(outcome: &TrainOutcome) -> Vec<f64> {
    outcome.history.iter().map(|record| record.loss).collect()
}

/// Holds that two runs' losses are within a bound.
fn assert_losses_near(got: &TrainOutcome, want: &TrainOutcome, bound: f64) {
    let (got, want) = (losses(got), losses(want));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < bound, "{got} {want}");
    }
}

/// How far two runs ended from each other, in parts of the way that one of them went from `start`.
fn apart(got: &TrainOutcome, want: &TrainOutcome, start: &[f32]) -> f64 {
    let [got, want] = [got, want].map(|outcome| values(outcome.student.trained()));
    let distance = |a: &[f32], b: &[f32]| -> f64 {
        assert_eq!(a.len(), b.len());
        let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    distance(&got, &want) / distance(&want, start)
}

#[test]
fn a_card_trains_as_the_processor_does() {
    let go = |run: &Run| run.go(&mut Recorder::default(), &NEVER).unwrap();
    let want = go(&Run::new(config()));
    let exact = go(&on_a_card(DtypeSetting::F32, DtypeSetting::Auto));
    assert_eq!(exact.numeric_path.instructions, "an emulated card");
    let start = values(&tiny_parameters(&tiny_config(true), 1));
    assert_losses_near(&exact, &want, 1e-5);
    let way = apart(&exact, &want, &start);
    assert!(way < 1e-3, "{way}");
    for moments in [DtypeSetting::F32, DtypeSetting::Bf16] {
        let rounded = go(&on_a_card(DtypeSetting::Auto, moments));
        assert_eq!(rounded.numeric_path.dtype, "bf16");
        assert_eq!(Some(rounded.numeric_path.moments), moments.given());
        assert_eq!(rounded.student.base.format(), NumberFormat::Split);
        assert_losses_near(&rounded, &want, 1e-2);
        let way = apart(&rounded, &want, &start);
        assert!(way < 0.1, "{way}");
        // Nothing is lost: the numbers that bf16 cannot hold are kept beside it.
        let kept = values(rounded.student.trained());
        let lost = |x: &&f32| x.to_bits() & 0xffff != 0;
        assert!(kept.iter().filter(lost).count() > kept.len() / 2);
    }
}

/// A run on the processor whose moments alone are rounded.
fn with_rounded_moments() -> Run {
    Run::new(TrainConfig {
        moments_dtype: DtypeSetting::Bf16,
        ..config()
    })
}

#[test]
fn moments_may_be_rounded_on_the_processor() {
    let go = |run: &Run| run.go(&mut Recorder::default(), &NEVER).unwrap();
    let want = go(&Run::new(config()));
    let rounded = go(&with_rounded_moments());
    assert_eq!(rounded.numeric_path.moments, NumberFormat::Bf16);
    assert_eq!(rounded.student.base.format(), NumberFormat::F32);
    // The gradient of the first step knows no moments.
    assert_eq!(losses(&rounded)[0], losses(&want)[0]);
    assert_ne!(losses(&rounded), losses(&want));
    assert_losses_near(&rounded, &want, 1e-2);
    let start = values(&tiny_parameters(&tiny_config(true), 1));
    let way = apart(&rounded, &want, &start);
    assert!(way < 0.1, "{way}");
}

#[test]
fn a_run_that_rounds_goes_on_to_the_bit() {
    let on_card = || on_a_card(DtypeSetting::Bf16, DtypeSetting::Bf16);
    let with_rounded_products = || {
        Run::new(TrainConfig {
            dtype: DtypeSetting::Bf16,
            ..config()
        })
    };
    let runs: [&dyn Fn() -> Run; 3] = [&on_card, &with_rounded_moments, &with_rounded_products];
    for run in runs {
        static STOP: AtomicBool = AtomicBool::new(false);
        STOP.store(false, Ordering::Relaxed);
        let whole = run();
        let want = whole.go(&mut Recorder::default(), &NEVER).unwrap();
        let parts = run();
        let mut first = Recorder {
            cancel_after: Some((3, &STOP)),
            ..Recorder::default()
        };
        parts.go(&mut first, &STOP).unwrap_err();
        let mut second = Recorder::default();
        let got = parts.go(&mut second, &NEVER).unwrap();
        assert_eq!(got.resumed_from, 3);
        assert!(second.notices.is_empty(), "{:?}", second.notices);
        assert_eq!(bits(&got), bits(&want));
        assert_eq!(numbers(&got.history), numbers(&want.history));
    }
}

#[test]
fn a_run_goes_on_elsewhere_in_the_same_formats_only() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut run = on_a_card(DtypeSetting::F32, DtypeSetting::Auto);
    let mut first = Recorder {
        cancel_after: Some((2, &STOP)),
        ..Recorder::default()
    };
    run.go(&mut first, &STOP).unwrap_err();
    run.device = ComputeDevice::cpu();
    let mut second = Recorder::default();
    let outcome = run.go(&mut second, &NEVER).unwrap();
    assert_eq!(outcome.resumed_from, 2);
    assert!(
        second.notices[0].contains("instructions: an emulated card, now x86-64"),
        "{:?}",
        second.notices
    );
    // What "auto" means is settled when a run begins.
    let mut other = on_a_card(DtypeSetting::Auto, DtypeSetting::Auto);
    other.dir = run.dir;
    let error = other.go(&mut Recorder::default(), &NEVER).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("trainer.dtype was \"f32\" and is now \"bf16\""),
        "{error}"
    );
}

#[test]
fn adapters_are_trained_on_a_card() {
    let lora = LoraConfig {
        r: 3,
        ..LoraConfig::default()
    };
    let mut plain = Run::new(config());
    plain.config.lora = Some(lora.clone());
    let (seed, format) = (plain.config.seed, NumberFormat::F32);
    let start = Adapters::new(&lora, &plain.model, seed, format, &plain.device.handle).unwrap();
    let want = plain.go(&mut Recorder::default(), &NEVER).unwrap();
    let mut run = on_a_card(DtypeSetting::Bf16, DtypeSetting::Auto);
    run.config.lora = Some(lora);
    let got = run.go(&mut Recorder::default(), &NEVER).unwrap();
    assert_eq!(got.student.base.format(), NumberFormat::Bf16);
    assert_eq!(got.student.trained().format(), NumberFormat::Split);
    assert_losses_near(&got, &want, 2e-2);
    let way = apart(&got, &want, &values(&start.values));
    assert!(way < 0.1, "{way}");
}

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::trainer::TrainConfig;
use crate::trainer::collective::Alone;
use crate::trainer::testing::{tiny_config, tiny_parameters, values};

fn state(step: u64) -> CheckpointState {
    CheckpointState {
        format: FORMAT,
        step,
        total_steps: 10,
        epoch: 0,
        rows_used: step * 2,
        identity: RunIdentity {
            config: TrainConfig::default().trajectory(),
            model: tiny_config(true).to_json("float32"),
            rows_sha256: "abc".to_owned(),
            lora_dropout: None,
        },
        numeric_path: NumericPath {
            engine: "test".to_owned(),
            dtype: "f32".to_owned(),
            threads: 2,
            instructions: "none".to_owned(),
            micro_batch_tokens: 512,
            shared_prefixes: SharedPrefixes::none(),
            recompute: Recompute::Nothing,
            moments: NumberFormat::F32,
            world_size: 1,
        },
        history: vec![StepRecord {
            step,
            epoch: 0.1,
            loss: 1.0 / 3.0,
            learning_rate: 2e-5,
            grad_norm: 0.7,
            tokens: 100,
            label_tokens: 60,
            seconds: 0.25,
        }],
        held_out: Vec::new(),
    }
}

const FORMATS: Formats = Formats {
    trained: NumberFormat::F32,
    frozen: NumberFormat::F32,
    gradients: NumberFormat::F32,
    moments: NumberFormat::F32,
    activations: candle_core::DType::F32,
    label_rows: 256,
};

struct Fixture {
    dir: tempfile::TempDir,
    folder: CheckpointFolder,
    parameters: ParameterSet,
    adamw: AdamW,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let parameters = tiny_parameters(&tiny_config(true), 1);
    let mut adamw = AdamW::new(
        (&TrainConfig::default()).into(),
        &parameters,
        FORMATS.moments,
    )
    .unwrap();
    adamw.m = tiny_parameters(&tiny_config(true), 2);
    adamw.v = tiny_parameters(&tiny_config(true), 3);
    Fixture {
        folder: CheckpointFolder::open(dir.path()).unwrap(),
        dir,
        parameters,
        adamw,
    }
}

impl Fixture {
    fn save(&self, step: u64, keep: usize) -> PathBuf {
        self.folder
            .save(
                &state(step),
                &self.parameters,
                &self.adamw,
                &Alone,
                keep,
                &mut |_| {},
            )
            .unwrap()
    }

    fn load(&self) -> (Option<Checkpoint>, Vec<String>) {
        self.try_load().unwrap()
    }

    fn try_load(&self) -> Result<(Option<Checkpoint>, Vec<String>), CheckpointError> {
        let constants = self.adamw.constants;
        self.folder.load_newest(
            self.parameters.layout(),
            FORMATS,
            &Device::Cpu,
            constants,
            &(0..self.parameters.count()),
        )
    }
}

#[test]
fn what_is_saved_comes_back_to_the_bit() {
    let fixture = fixture();
    fixture.save(4, 1);
    let (checkpoint, notices) = fixture.load();
    let checkpoint = checkpoint.unwrap();
    assert!(notices.is_empty());
    assert_eq!(checkpoint.state, state(4));
    assert_eq!(checkpoint.adamw.updates, 4);
    assert_eq!(values(&checkpoint.parameters), values(&fixture.parameters));
    assert_eq!(values(&checkpoint.adamw.m), values(&fixture.adamw.m));
    assert_eq!(values(&checkpoint.adamw.v), values(&fixture.adamw.v));
}

#[test]
fn the_safetensors_library_reads_the_weights() {
    let fixture = fixture();
    let bytes = fs::read(fixture.save(1, 1).join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.shape(), [24, 40]);
    let first = f32::from_le_bytes(tensor.data()[..4].try_into().unwrap());
    let range = fixture.parameters.range(name).unwrap();
    assert_eq!(first, fixture.parameters.read(range).unwrap()[0]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 5] = [
        (
            "model.safetensors",
            |path| {
                File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(1000)
                    .unwrap()
            },
            "model.safetensors has 1000 bytes",
        ),
        (
            "adam_v.safetensors",
            |path| {
                let mut bytes = fs::read(path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, bytes).unwrap();
            },
            "adam_v.safetensors has sha256",
        ),
        (
            "adam_m.safetensors",
            |path| fs::remove_file(path).unwrap(),
            "adam_m.safetensors cannot be read",
        ),
        (
            "state.json",
            |path| fs::write(path, "{}").unwrap(),
            "state.json is not what was written",
        ),
        (
            "manifest.json",
            |path| fs::write(path, "{\"files\"").unwrap(),
            "manifest.json is not what was written",
        ),
    ];
    for (file, damage, reason) in cases {
        let fixture = fixture();
        fixture.save(2, 2);
        let newest = fixture.save(4, 2);
        damage(&newest.join(file));
        let (checkpoint, notices) = fixture.load();
        assert_eq!(checkpoint.unwrap().state.step, 2, "{file}");
        assert_eq!(notices.len(), 1);
        assert!(
            notices[0].contains("step-000004 is damaged"),
            "{}",
            notices[0]
        );
        assert!(notices[0].contains(reason), "{}", notices[0]);
        // The next save at that step replaces it.
        fixture.save(4, 2);
        assert_eq!(fixture.load().0.unwrap().state.step, 4);
    }
}

/// What a run would be told that goes on from these checkpoints, all of which stay.
fn refused(fixture: &Fixture) -> String {
    let steps = fixture.folder.steps().unwrap();
    let error = fixture.try_load().unwrap_err().to_string();
    assert_eq!(fixture.folder.steps().unwrap(), steps);
    error
}

#[test]
fn a_run_does_not_begin_anew_over_checkpoints_that_are_all_damaged() {
    let fixture = fixture();
    for step in [2, 4] {
        let path = fixture.save(step, 2);
        fs::remove_file(path.join("model.safetensors")).unwrap();
    }
    let text = refused(&fixture);
    assert!(
        text.starts_with("no checkpoint of this run is whole:\n  - "),
        "{text}"
    );
    assert!(
        text.contains("step-000004") && text.contains("step-000002"),
        "{text}"
    );
    assert!(text.ends_with("or name another directory"), "{text}");
}

#[test]
fn what_may_be_whole_is_not_passed_over() {
    // Another version's: as it was written, and not to be understood here.
    let fixture = fixture();
    fixture.save(2, 2);
    let newest = fixture.save(4, 2);
    let state = fs::read_to_string(newest.join(STATE)).unwrap();
    let newer = state.replacen("\"format\": 1", "\"format\": 2", 1);
    assert_ne!(newer, state);
    let manifest = fs::read_to_string(newest.join(MANIFEST)).unwrap();
    let [old, new] = [&state, &newer].map(|text| hex(&Sha256::digest(text)));
    fs::write(newest.join(STATE), newer).unwrap();
    fs::write(newest.join(MANIFEST), manifest.replace(&old, &new)).unwrap();
    let text = refused(&fixture);
    assert!(
        text.contains("step-000004 is of another version of Pacos"),
        "{text}"
    );
    assert!(text.contains("format 2, this program reads 1"), "{text}");

    // One that the system does not read: a folder, where a file was.
    let fixture = self::fixture();
    fixture.save(2, 2);
    let newest = fixture.save(4, 2);
    fs::remove_file(newest.join(MANIFEST)).unwrap();
    fs::create_dir(newest.join(MANIFEST)).unwrap();
    let text = refused(&fixture);
    assert!(
        text.starts_with("cannot read ") && text.contains("manifest.json"),
        "{text}"
    );
}

#[test]
fn the_previous_checkpoint_goes_only_after_the_new_one_is_there() {
    let fixture = fixture();
    fixture.save(2, 1);
    let seen = RefCell::new(Vec::new());
    let mut on_point = |point: &str| {
        seen.borrow_mut()
            .push((point.to_owned(), fixture.folder.steps().unwrap()));
    };
    fixture
        .folder
        .save(
            &state(4),
            &fixture.parameters,
            &fixture.adamw,
            &Alone,
            1,
            &mut on_point,
        )
        .unwrap();
    assert_eq!(
        *seen.borrow(),
        [
            ("checkpoint:mid-write".to_owned(), vec![2]),
            ("checkpoint:before-rename".to_owned(), vec![2]),
            ("checkpoint:after-rename".to_owned(), vec![4, 2]),
        ]
    );
    assert_eq!(fixture.folder.steps().unwrap(), [4]);
}

#[test]
fn leftovers_of_a_kill_are_swept_away() {
    let fixture = fixture();
    fixture.save(2, 1);
    let left = fixture
        .dir
        .path()
        .join("checkpoints/.unfinished-step-000004");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("model.safetensors"), "half").unwrap();
    CheckpointFolder::open(fixture.dir.path()).unwrap();
    assert!(!left.exists());
    assert_eq!(fixture.load().0.unwrap().state.step, 2);
}

/// A disk on which so many bytes are left.
struct SmallDisk {
    left: Rc<RefCell<usize>>,
    file: File,
}

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = self.left.borrow_mut();
        if *left < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *left -= bytes.len();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Durable for SmallDisk {
    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[test]
fn a_full_disk_is_an_error_and_spares_the_previous_checkpoint() {
    // Room for nothing, for part of the weights, for the tensors but not the manifest.
    for room in [0, 20_000, 12 * tiny_config(true).parameter_count() + 6_000] {
        let fixture = fixture();
        fixture.save(2, 1);
        let left = Rc::new(RefCell::new(room));
        let create = |path: &Path| {
            Ok(Box::new(SmallDisk {
                left: Rc::clone(&left),
                file: File::create_new(path)?,
            }) as Box<dyn Durable>)
        };
        let error = fixture
            .folder
            .save_with(
                &state(4),
                Tensors::new(&fixture.parameters, &fixture.adamw, &Alone),
                1,
                &mut |_| {},
                &create,
            )
            .unwrap_err();
        assert!(matches!(error, CheckpointError::DiskFull { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("the disk is full: cannot write"), "{text}");
        assert!(text.contains("the checkpoint of step 2 is whole"), "{text}");
        assert_eq!(fixture.folder.names().unwrap(), ["step-000002"]);
        assert_eq!(fixture.load().0.unwrap().state.step, 2);
    }
}

#[test]
fn moments_in_bf16_take_half_the_disk_and_come_back_in_any_format() {
    let mut fixture = fixture();
    let rounded = fixture.adamw.m.zeros_in(NumberFormat::Bf16).unwrap();
    let exact = values(&fixture.adamw.m);
    fixture.adamw.m = rounded;
    fixture.adamw.m.write(0, &exact).unwrap();
    let folder = fixture.save(1, 1);
    let size = |name: &str| fs::metadata(folder.join(name)).unwrap().len();
    let [_, m, v] = TENSORS;
    assert!(2 * size(m) < size(v) + 4096, "{} {}", size(m), size(v));
    // Read as f32: the same numbers.
    let (checkpoint, notices) = fixture.load();
    assert!(notices.is_empty(), "{notices:?}");
    let got = checkpoint.unwrap().adamw.m;
    assert_eq!(got.format(), NumberFormat::F32);
    assert_eq!(values(&got), values(&fixture.adamw.m));
    assert_ne!(values(&got), exact);
}

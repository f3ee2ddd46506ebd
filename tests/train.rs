//! `pacos train`: a student and a dataset, with no teacher, no key and no ledger.

mod support;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use support::{fails, pacos, sha256, student, succeeds};

/// A folder with a student and a dataset of twelve examples in both forms of the template.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Desk(tempfile::tempdir().expect("a temporary folder"));
        student::write(&desk.path("student"));
        let lines: Vec<String> = rows().iter().map(Value::to_string).collect();
        fs::write(desk.path("numbers.jsonl"), lines.join("\n")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `pacos train` of a dataset, short and with a loss that falls.
    fn train(&self, data: &str, dir: &str) -> Command {
        let mut command = pacos();
        command.arg("train").arg(self.path(data));
        command.arg("--model").arg(self.path("student"));
        command.arg("--dir").arg(self.path(dir));
        for setting in SETTINGS {
            command.arg("--set").arg(format!("trainer.{setting}"));
        }
        command
    }
}

const SETTINGS: [&str; 5] = [
    "epochs=2",
    "batch_size=4",
    "learning_rate=3e-2",
    "eval_fraction=0.2",
    "checkpoint_every=2",
];

fn rows() -> Vec<Value> {
    (1..=12)
        .map(|n| {
            let input = if n % 3 == 0 {
                n.to_string()
            } else {
                String::new()
            };
            let instruction = format!("{} Name the number after {n}.", "Think. ".repeat(n % 4));
            json!({"instruction": instruction, "input": input, "output": (n + 1).to_string()})
        })
        .collect()
}

fn losses(told: &str) -> Vec<f64> {
    let told: Value = serde_json::from_str(told).expect("it is JSON");
    serde_json::from_value(told["losses"].clone()).expect("a loss for each step")
}

fn weights(dir: &Path) -> String {
    sha256(&dir.join("model/model.safetensors"))
}

#[test]
fn a_dataset_is_learnt_planned_first_and_resumed_to_the_bit() {
    let desk = Desk::new();
    let output = desk.train("numbers.jsonl", "whole").output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    for line in ["memory", "of these computed", "in all", "train: 6 steps"] {
        assert!(err.contains(line), "{line}: {err}");
    }
    assert!(out.contains("Trained for 6 steps in"), "{out}");
    if cfg!(target_os = "linux") {
        assert!(out.contains("\nMemory: "), "{out}");
    }
    assert!(out.contains("Loss on examples that it never saw"), "{out}");
    assert!(desk.path("whole/model/tokenizer.json").exists());
    // What is finished gives its result again.
    let told = succeeds(desk.train("numbers.jsonl", "whole").arg("--json"));
    let whole = losses(&told);
    assert_eq!(whole.len(), 6);
    assert!(whole[5] < whole[0], "{whole:?}");
    let record = fs::read(desk.path("whole/training.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["steps"][5]["loss"], json!(whole[5]));

    let killed = desk
        .train("numbers.jsonl", "killed")
        .env("PACOS_CRASH_AT", "step:after@5")
        .output()
        .unwrap();
    assert!(!killed.status.success());
    assert!(!desk.path("killed/model").exists());
    let told = succeeds(desk.train("numbers.jsonl", "killed").arg("--json"));
    assert_eq!(losses(&told), whole);
    assert_eq!(weights(&desk.path("killed")), weights(&desk.path("whole")));

    // The same rows as Stanford's file has them.
    fs::write(desk.path("alpaca_data.json"), json!(rows()).to_string()).unwrap();
    succeeds(&mut desk.train("alpaca_data.json", "array"));
    assert_eq!(weights(&desk.path("array")), weights(&desk.path("whole")));
}

#[test]
fn adapters_are_trained_merged_and_written_for_peft() {
    let desk = Desk::new();
    let train = |rank: &str| {
        let mut command = desk.train("numbers.jsonl", "adapted");
        let modules = "trainer.lora.target_modules=[\"q_proj\", \"v_proj\", \"down_proj\"]";
        command.args(["--json", "--set", rank, "--set", modules]);
        command
    };
    let told = succeeds(&mut train("trainer.lora.r=4"));
    let losses = losses(&told);
    assert!(losses[5] < losses[0], "{losses:?}");
    let adapter = desk.path("adapted/adapter");
    let config = fs::read(adapter.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(4), &json!(16.0))
    );
    assert_eq!(config["lora_dropout"], json!(0.05));
    assert_eq!(
        config["target_modules"],
        json!(["q_proj", "v_proj", "down_proj"])
    );
    let file = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let name = "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight";
    assert_eq!(header[name]["shape"][1], 4, "{header}");
    // The model has the adapters in it, and no weight that they do not touch has changed.
    assert_ne!(
        weights(&desk.path("adapted")),
        sha256(&desk.path("student/model.safetensors"))
    );
    let told = fails(&mut train("trainer.lora.r=2"), 2);
    assert!(told.contains("trainer.lora was {"), "{told}");
    let told = fails(&mut train("trainer.lora.rank=2"), 2);
    assert!(told.contains("unknown field `rank`"), "{told}");
}

#[test]
fn a_manifest_trains_its_student_without_its_teachers_key() {
    let desk = Desk::new();
    let manifest = desk.path("recipe.toml");
    let trainer = SETTINGS.join("\n");
    let text = format!(
        "name = \"numbers\"\nseed = 7\n\n[seeds]\nbundled = true\n\n\
         [models.far]\nprovider = \"openai\"\nmodel = \"far\"\nbase_url = \"https://nowhere.invalid/v1\"\n\
         api_key_env = \"PACOS_TEST_NO_SUCH_KEY\"\n\n\
         [models.own]\nprovider = \"local\"\nmodel = \"student\"\n\n\
         [roles]\nteacher = \"far\"\nstudent = \"own\"\n\n\
         [generator]\nplugin = \"self-instruct\"\ngrant = [\"models:teacher\"]\n\n\
         [dataset]\ntarget = 12\n\n[trainer]\n{trainer}\n"
    );
    fs::write(&manifest, text).unwrap();
    let train = |data: &Path| {
        let mut command = pacos();
        command.arg("train").arg(&manifest).arg("--data").arg(data);
        command.arg("--dir").arg(desk.path("by-manifest"));
        command.current_dir(desk.0.path());
        command
    };
    let told = fails(&mut train(&desk.path("absent.jsonl")), 2);
    assert!(told.contains("name the dataset with --data FILE"), "{told}");
    // A run's directory stands for its dataset.
    fs::create_dir_all(desk.path("run/dataset")).unwrap();
    fs::copy(
        desk.path("numbers.jsonl"),
        desk.path("run/dataset/dataset.jsonl"),
    )
    .unwrap();
    succeeds(&mut train(&desk.path("run")));
    succeeds(&mut desk.train("numbers.jsonl", "by-file"));
    assert_eq!(
        weights(&desk.path("by-manifest")),
        weights(&desk.path("by-file"))
    );
}

#[test]
fn what_cannot_be_trained_on_is_named_with_its_place() {
    let desk = Desk::new();
    let told = fails(pacos().arg("train").arg(desk.path("numbers.jsonl")), 2);
    assert!(
        told.contains("a dataset needs a student: --model"),
        "{told}"
    );

    let mut lines: Vec<String> = rows().iter().map(Value::to_string).collect();
    lines[4] = "{\"output\": \"5\"}".into();
    fs::write(desk.path("broken.jsonl"), lines.join("\n")).unwrap();
    let told = fails(&mut desk.train("broken.jsonl", "broken"), 2);
    assert!(
        told.contains("broken.jsonl:5: \"instruction\" is missing or empty"),
        "{told}"
    );
    assert!(!desk.path("broken").exists());

    let long = json!({"instruction": "Why? ".repeat(200), "input": "", "output": "So."});
    lines[4] = long.to_string();
    fs::write(desk.path("long.jsonl"), lines.join("\n")).unwrap();
    let told = fails(&mut desk.train("long.jsonl", "long"), 2);
    assert!(
        told.contains("long.jsonl: line 5: the prompt alone fills max_seq_len (512 tokens)"),
        "{told}"
    );
    succeeds(desk.train("long.jsonl", "long").arg("--skip-long-prompts"));

    let told = fails(
        desk.train("numbers.jsonl", "setting")
            .args(["--set", "trainer.batch_size=0"]),
        2,
    );
    assert!(
        told.contains("batch_size is 0; expected a whole number of at least 1"),
        "{told}"
    );

    // A directory where another student, or other rows, began to be trained.
    let told = fails(&mut desk.train("numbers.jsonl", "long"), 2);
    assert!(
        told.contains("the examples or their tokens are not the same"),
        "{told}"
    );
    let config = desk.path("student/config.json");
    let mut other: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    other["rope_theta"] = json!(20_000.0);
    fs::write(&config, other.to_string()).unwrap();
    let mut again = desk.train("long.jsonl", "long");
    let told = fails(again.arg("--skip-long-prompts"), 2);
    assert!(told.contains("training in"), "{told}");
    assert!(told.contains("began with"), "{told}");

    // A vocabulary that is too small for its tokenizer.
    other["vocab_size"] = json!(100);
    fs::write(&config, other.to_string()).unwrap();
    let told = fails(&mut desk.train("numbers.jsonl", "vocabulary"), 3);
    assert!(told.contains("100"), "{told}");
    assert!(!desk.path("vocabulary/checkpoints").exists());
}

/// Starts a rank as torchrun does, beside an agent that holds MASTER_PORT.
fn rank(mut command: Command, rank: usize, world_size: usize, ports: [u16; 2]) -> Child {
    let [master, own] = ports.map(|port| port.to_string());
    command
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", world_size.to_string())
        .env("LOCAL_WORLD_SIZE", world_size.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", master)
        .env("PACOS_RANKS_PORT", own)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("the command starts")
}

/// Every file in a folder, by its path.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn two_processes_train_what_one_does() {
    let desk = Desk::new();
    let alone = succeeds(desk.train("numbers.jsonl", "alone").arg("--json"));
    let agent = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [&agent, &free].map(|port| port.local_addr().unwrap().port());
    drop(free);
    let start = |dir: &str, crash: [Option<&str>; 2]| {
        let ranks = [0, 1].map(|number| {
            let mut command = desk.train("numbers.jsonl", dir);
            command.arg("--json");
            if let Some(point) = crash[number] {
                command.env("PACOS_CRASH_AT", point);
            }
            rank(command, number, 2, ports)
        });
        ranks.map(|rank| rank.wait_with_output().unwrap())
    };
    let [first, second] = start("both", [None, None]);
    let told = String::from_utf8(first.stdout).unwrap();
    let said = String::from_utf8(first.stderr).unwrap();
    assert!(first.status.success(), "{told}{said}");
    assert!(
        said.contains("ranks that share a step                       2"),
        "{said}"
    );
    assert!(second.status.success());
    let silence = [second.stdout, second.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&silence), "");
    assert_eq!(losses(&alone).len(), losses(&told).len());
    for (one, two) in losses(&alone).iter().zip(losses(&told)) {
        assert!((one - two).abs() < 1e-5, "{one} {two}");
    }
    let names = |dir: &str| -> Vec<PathBuf> {
        let folder = desk.path(dir);
        let names = files(&folder).into_iter();
        names
            .map(|path| path.strip_prefix(&folder).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("both"), names("alone"));

    // One dies: the other ends and says so, and both go on together to the same bits.
    let [first, second] = start("killed", [Some("step:after@5"), None]);
    assert!(!first.status.success() && !second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(
        said.contains("rank 1: rank 0 is gone: its process ended"),
        "{said}"
    );
    assert!(said.contains("start all ranks again"), "{said}");
    let [first, second] = start("killed", [None, None]);
    assert!(first.status.success() && second.status.success());
    let resumed = String::from_utf8(first.stdout).unwrap();
    assert_eq!(losses(&resumed), losses(&told));
    assert_eq!(weights(&desk.path("killed")), weights(&desk.path("both")));
    // One alone goes on from it too, here with nothing left to do.
    let told = succeeds(desk.train("numbers.jsonl", "killed").arg("--json"));
    assert_eq!(losses(&told), losses(&resumed));
    drop(agent);
}

#[test]
fn what_a_launcher_sets_by_halves_is_named() {
    let desk = Desk::new();
    let mut command = desk.train("numbers.jsonl", "half");
    let told = fails(command.env("RANK", "1"), 2);
    assert!(
        told.contains("RANK is set, as by torchrun, and WORLD_SIZE is not"),
        "{told}"
    );
    assert!(!desk.path("half").exists());
    let mut run = pacos();
    run.args(["run", "recipe.toml"])
        .env("OMPI_COMM_WORLD_RANK", "1");
    run.env("OMPI_COMM_WORLD_SIZE", "2")
        .env("OMPI_COMM_WORLD_LOCAL_RANK", "1");
    let told = fails(run.env("OMPI_COMM_WORLD_LOCAL_SIZE", "2"), 2);
    let expected = "Open MPI started this as rank 1 of 2, and `pacos run` is one process";
    assert!(told.contains(expected), "{told}");
    assert!(told.contains("`pacos train recipe.toml`"), "{told}");
}

#[test]
fn what_is_refused_leaves_a_run_as_it_was() {
    let desk = Desk::new();
    let again = |options: &[&str]| {
        let mut command = desk.train("numbers.jsonl", "run");
        command.args(options);
        command
    };
    succeeds(&mut again(&[]));
    let record = || fs::read_to_string(desk.path("run/training.json")).unwrap();
    let finished = record();
    let told = fails(&mut again(&["--set", "trainer.learning_rate=9"]), 2);
    assert!(told.contains("trainer.learning_rate was"), "{told}");
    assert_eq!(record(), finished);

    // A damaged checkpoint, which is the only one: what was trained is not thrown away for it.
    let moments = desk.path("run/checkpoints/step-000006/adam_m.safetensors");
    fs::write(&moments, "short").unwrap();
    let told = fails(&mut again(&[]), 5);
    assert!(
        told.contains("no checkpoint of this run is whole"),
        "{told}"
    );
    assert!(told.contains("adam_m.safetensors has 5 bytes"), "{told}");
    assert!(moments.exists());
    assert_eq!(record(), finished);
}

#[test]
fn memory_is_predicted_before_the_student_is_read() {
    let desk = Desk::new();
    fs::remove_file(desk.path("student/model.safetensors")).unwrap();
    let mut large = desk.train("numbers.jsonl", "large");
    let told = fails(
        large.args(["--set", "trainer.micro_batch_tokens=100000000000"]),
        3,
    );
    assert!(told.contains("training this student needs"), "{told}");
    assert!(
        told.contains("Leave micro_batch_tokens out of [trainer]: the planner's choice takes"),
        "{told}"
    );
    assert!(!desk.path("large/checkpoints").exists());
}

#[test]
fn a_run_that_diverges_names_the_lines_of_its_examples() {
    let desk = Desk::new();
    let mut wild = desk.train("numbers.jsonl", "wild");
    wild.args(["--set", "trainer.learning_rate=1e30"]);
    let told = fails(wild.args(["--set", "trainer.eval_fraction=0"]), 1);
    assert!(told.contains("is NaN (examples "), "{told}");
    assert!(told.contains("numbers.jsonl: lines "), "{told}");
    assert!(told.contains("in a directory of its own"), "{told}");
}

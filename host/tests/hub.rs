//! Models by name, `hf:OWNER/NAME`, through the command, against a hub on loopback.

#[path = "hub/server.rs"]
mod server;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use candle_core::DType;
use pacos::llama::{LlamaConfig, RopeScaling, Tokenizer, Weights};
use server::{Asked, COMMIT, Hub, Manners};

/// Files of a model of one small layer, beside some that repositories also hold.
fn tiny() -> BTreeMap<String, Vec<u8>> {
    let config = LlamaConfig {
        vocab_size: 512,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![0],
        pad_token_id: None,
    };
    let folder = tempfile::tempdir().unwrap();
    Weights::random(&config, 7)
        .save_hf(folder.path(), &config, DType::F32)
        .unwrap();
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {"<|end|>": 0, "a": 1, "b": 2}, "merges": []},
    });
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let text = |text: &str| text.as_bytes().to_vec();
    [
        (".gitattributes", text("*.bin filter=lfs")),
        ("README.md", text("# Tiny")),
        ("config.json", read("config.json")),
        ("generation_config.json", text("{\"eos_token_id\": [0, 2]}")),
        ("model.safetensors", read("model.safetensors")),
        ("onnx/model.onnx", text("much")),
        ("pytorch_model.bin", text("much")),
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        (
            "tokenizer_config.json",
            text("{\"eos_token\": \"<|end|>\"}"),
        ),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

/// The weights in two files with an index.
fn in_shards(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let whole = files.remove("model.safetensors").unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut map = serde_json::Map::new();
    for (number, odd) in [(1, false), (2, true)] {
        let name = format!("model-{number:05}-of-00002.safetensors");
        let part: Vec<_> = tensors
            .iter()
            .enumerate()
            .filter(|(place, _)| (place % 2 == 1) == odd)
            .map(|(_, tensor)| tensor)
            .collect();
        for (tensor, _) in &part {
            map.insert((*tensor).to_owned(), name.as_str().into());
        }
        files.insert(name, safetensors::serialize(part, None).unwrap());
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    files.insert(
        "model.safetensors.index.json".into(),
        index.to_string().into_bytes(),
    );
    files
}

/// A tokenizer as LLaMA's first models come: SentencePiece's own file, with pieces for all bytes and for "a".
fn sentence_piece() -> Vec<u8> {
    let field = |number: u8, content: &[u8]| -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("short");
        assert!(length < 128, "one byte holds the length");
        [&[number << 3 | 2, length], content].concat()
    };
    let named = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), 6));
    let mut model = Vec::new();
    for (text, kind) in named.into_iter().chain(bytes).chain([("a".to_owned(), 1)]) {
        // The piece, its score 0.0 and its kind.
        let score = [5 | 2 << 3, 0, 0, 0, 0];
        let piece = [&field(1, text.as_bytes())[..], &score, &[3 << 3, kind]].concat();
        model.extend(field(1, &piece));
    }
    // BPE, with byte fallback (field 35).
    model.extend(field(2, &[3 << 3, 2, 0x98, 0x02, 1]));
    // Texts are left as they are: without a space before the first word, and with all white space.
    model.extend(field(3, &[3 << 3, 0, 4 << 3, 0]));
    model
}

struct Bench {
    hub: Hub,
    home: tempfile::TempDir,
}

impl Bench {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        Bench {
            hub: Hub::start(files),
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn inspect(&self, source: &str) -> Command {
        let mut command = self.pacos();
        command.args(["model", "inspect", source]);
        command
    }

    /// The command, with this hub and nothing else of the tester's environment.
    fn pacos(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pacos"));
        for name in [
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", self.hub.address())
            .stdin(Stdio::null());
        command
    }

    fn snapshot(&self) -> PathBuf {
        let repository = self.home.path().join("hub/models--owner--tiny");
        repository.join("snapshots").join(COMMIT)
    }
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

/// The sentence that the command ends with.
fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn files_asked(asked: &[Asked]) -> Vec<&str> {
    let gets = asked
        .iter()
        .filter_map(|one| one.line.strip_prefix("GET /"));
    let last = gets.filter_map(|path| path.rsplit('/').next());
    last.collect()
}

#[test]
fn a_plan_asks_the_hub_for_a_configuration_and_nothing_else() {
    let bench = Bench::new(tiny());
    let manifest = bench.home.path().join("recipe.toml");
    let recipe = "name = \"tiny\"\n[seeds]\nbundled = true\n\
        [models.tiny]\nprovider = \"local\"\nmodel = \"hf:owner/tiny\"\n\
        [roles]\nteacher = \"tiny\"\nstudent = \"tiny\"\n\
        [generator]\nplugin = \"self-instruct\"\ngrant = [\"models:teacher\"]\n\
        [dataset]\ntarget = 10\n[trainer]\nmax_steps = 1\n";
    fs::write(&manifest, recipe).unwrap();
    let told = succeeds(bench.pacos().arg("plan").arg(&manifest));
    assert!(told.contains("AdamW first moment"), "{told}");
    assert_eq!(files_asked(&bench.hub.asked()), ["main", "config.json"]);
    assert_eq!(names(&bench.snapshot()), ["config.json"]);
    // What a plan brought does not pass for a model.
    succeeds(&mut bench.inspect("hf:owner/tiny"));
}

#[test]
fn a_model_is_fetched_by_name_and_then_needs_no_network() {
    let bench = Bench::new(tiny());
    let first = succeeds(bench.inspect("hf:owner/tiny").env("HF_TOKEN", "hf_secret"));
    assert!(first.contains("\"num_hidden_layers\": 1") && first.contains("sha256"));
    let asked = bench.hub.asked();
    // Once from the hub, and the weights once more from where it sends the client.
    assert_eq!(
        files_asked(&asked),
        [
            "main",
            "config.json",
            "generation_config.json",
            "tokenizer_config.json",
            "tokenizer.json",
            "model.safetensors",
            "model.safetensors",
        ]
    );
    for one in &asked {
        let elsewhere = one.line.contains("/store/");
        let token = (!elsewhere).then_some("Bearer hf_secret");
        assert_eq!(one.token.as_deref(), token, "{}", one.line);
    }
    // The layout of `huggingface_hub`, so that the two share what they have.
    let snapshot = bench.snapshot();
    assert_eq!(
        names(&snapshot),
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let reference = snapshot.join("../../refs/main");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    let target = fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert!(target.starts_with("../../blobs"), "{target:?}");
    assert_eq!(target.file_name().unwrap().len(), 64);

    // With the hub there, nothing but the commit is asked for; a commit is not even asked for.
    assert_eq!(succeeds(&mut bench.inspect("hf:owner/tiny")), first);
    assert_eq!(files_asked(&bench.hub.asked()), ["main"]);
    let commit = format!("hf:owner/tiny@{COMMIT}");
    assert_eq!(succeeds(&mut bench.inspect(&commit)), first);
    assert!(bench.hub.asked().is_empty());

    bench.hub.stop();
    assert_eq!(succeeds(&mut bench.inspect("hf:owner/tiny")), first);
    let offline = succeeds(bench.inspect("hf:owner/tiny").env("HF_HUB_OFFLINE", "1"));
    assert_eq!(offline, first);
    let other = fails(&mut bench.inspect("hf:owner/tiny@v1"));
    assert!(
        other.contains("does not answer (") && other.contains("check the network and HF_ENDPOINT"),
        "{other}"
    );
    let forbidden = fails(bench.inspect("hf:owner/tiny@v1").env("HF_HUB_OFFLINE", "1"));
    assert!(
        forbidden.contains("HF_HUB_OFFLINE forbids asking the hub"),
        "{forbidden}"
    );
}

#[test]
fn a_model_in_shards_under_a_new_name_is_the_same_model() {
    let whole = Bench::new(tiny());
    let shards = Bench::new(in_shards(tiny()));
    shards.hub.behave(Manners {
        renamed: true,
        ..Manners::default()
    });
    let shape = |told: String| told.split("sha256").next().unwrap().to_owned();
    assert_eq!(
        shape(succeeds(&mut shards.inspect("hf:owner/tiny@v1"))),
        shape(succeeds(&mut whole.inspect("hf:owner/tiny@v1")))
    );
    assert_eq!(
        names(&shards.snapshot())[2..5],
        [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
}

#[test]
fn a_model_whose_tokenizer_is_sentence_pieces_is_fetched_with_it() {
    let mut files = tiny();
    files.remove("tokenizer.json");
    files.remove("tokenizer_config.json");
    files.insert("tokenizer.model".to_owned(), sentence_piece());
    files.insert("added_tokens.json".to_owned(), b"{\"[PAD]\": 260}".to_vec());
    let bench = Bench::new(files);
    let folder = bench.home.path().join("converted");
    let convert = ["convert", "hf:owner/tiny"];
    succeeds(bench.pacos().args(convert).arg(&folder));
    let asked = bench.hub.asked();
    assert_eq!(
        files_asked(&asked)[..5],
        [
            "main",
            "config.json",
            "generation_config.json",
            "added_tokens.json",
            "tokenizer.model"
        ]
    );
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let bytes = [3 + u32::from(b'b'), 3 + 0xc3, 3 + 0xa9];
    let expected = [&[259], &bytes[..], &[260]].concat();
    assert_eq!(tokenizer.encode("ab\u{e9}[PAD]", false).unwrap(), expected);

    // And again with nobody to ask.
    bench.hub.stop();
    succeeds(bench.inspect("hf:owner/tiny").env("HF_HUB_OFFLINE", "1"));
}

#[test]
fn what_is_not_there_is_named_with_the_next_step() {
    let bench = Bench::new(tiny());
    let told = fails(&mut bench.inspect("hf:owner/tinny"));
    assert!(
        told.contains("cannot fetch owner/tinny from the hub: ")
            && told.contains("has no such model (404 Not Found): check the name")
            && told.contains("set HF_TOKEN"),
        "{told}"
    );
    let told = fails(&mut bench.inspect("hf:owner/tiny@v9"));
    assert!(
        told.contains("no revision \"v9\"; write a branch, tag or commit of it after @"),
        "{told}"
    );
    for (file, next) in [
        ("config.json", "name another repository"),
        ("tokenizer.json", "AutoTokenizer"),
        ("model.safetensors", "save_pretrained it into a folder"),
    ] {
        let mut files = tiny();
        files.remove(file);
        let bench = Bench::new(files);
        let told = fails(&mut bench.inspect("hf:owner/tiny"));
        let lacks = format!("the repository has no {file} at revision \"main\"; ");
        assert!(told.contains(&lacks) && told.contains(next), "{told}");
    }
}

#[test]
fn a_gated_model_says_to_set_a_token() {
    let bench = Bench::new(tiny());
    for status in [401, 403] {
        bench.hub.behave(Manners {
            refuse: Some((status, "GatedRepo")),
            ..Manners::default()
        });
        let told = fails(&mut bench.inspect("hf:owner/tiny"));
        let settings = format!("make a token at {}/settings/tokens", bench.hub.address());
        assert!(
            told.contains("is gated") && told.contains("accept its terms"),
            "{told}"
        );
        assert!(
            told.contains(&settings) && told.contains("set HF_TOKEN to it"),
            "{told}"
        );
        let told = fails(bench.inspect("hf:owner/tiny").env("HF_TOKEN", "hf_secret"));
        assert!(told.contains("the token in use"), "{told}");
        assert!(!told.contains("hf_secret"), "{told}");
    }
}

#[test]
fn a_file_that_was_cut_is_gone_on_with_and_never_believed() {
    let cut = Manners {
        cut_after: Some(30_000),
        ..Manners::default()
    };
    let files = tiny();
    let size = files["model.safetensors"].len();
    assert!((60_000..150_000).contains(&size), "{size}");

    // Cut again and again, it comes in parts.
    let bench = Bench::new(files.clone());
    bench.hub.behave(cut.clone());
    let told = succeeds(&mut bench.inspect("hf:owner/tiny"));
    let asked = bench.hub.asked();
    let ranges: Vec<_> = asked.iter().filter_map(|one| one.range.clone()).collect();
    assert_eq!(ranges[0], "bytes=30000-");
    assert_eq!(
        fs::read(bench.snapshot().join("model.safetensors")).unwrap(),
        files["model.safetensors"]
    );

    // Where it cannot, the command gives up, and what came is no model.
    let stubborn = Bench::new(files);
    stubborn.hub.behave(Manners {
        no_ranges: true,
        ..cut
    });
    let error = fails(&mut stubborn.inspect("hf:owner/tiny"));
    assert!(
        error.contains("model.safetensors did not come in 5 attempts"),
        "{error}"
    );
    assert!(!stubborn.snapshot().join("model.safetensors").exists());
    let offline = fails(stubborn.inspect("hf:owner/tiny").env("HF_HUB_OFFLINE", "1"));
    assert!(offline.contains("holds no whole copy"), "{offline}");
    stubborn.hub.behave(Manners::default());
    stubborn.hub.asked();
    assert_eq!(succeeds(&mut stubborn.inspect("hf:owner/tiny")), told);
    let asked = stubborn.hub.asked();
    assert!(
        asked
            .iter()
            .any(|one| one.range.as_deref() == Some("bytes=30000-")),
        "{asked:?}"
    );
}

#[test]
fn a_file_that_came_damaged_is_thrown_away() {
    let files = tiny();
    let mut damaged = files["model.safetensors"].clone();
    *damaged.last_mut().unwrap() ^= 1;
    let bench = Bench::new(files);
    bench.hub.behave(Manners {
        damaged: Some(damaged),
        ..Manners::default()
    });
    let told = fails(&mut bench.inspect("hf:owner/tiny"));
    assert!(
        told.contains("model.safetensors came damaged: its SHA-256 is"),
        "{told}"
    );
    assert!(!bench.snapshot().join("model.safetensors").exists());
    bench.hub.behave(Manners::default());
    succeeds(&mut bench.inspect("hf:owner/tiny"));
}

use std::io::Write;

use super::embedded::{Pinned, Places, fetch_from};
use super::*;
use crate::llama::test_model;

#[test]
fn sources_are_read_and_written_in_one_spelling() {
    for text in [
        "models/llama-7b",
        "../model.gguf",
        "embedded:smollm2-135m-instruct",
        "hf:owner/name",
        "hf:owner/na.me-1@v1.0",
    ] {
        let source: ModelSource = text.parse().unwrap();
        assert_eq!(source.to_string(), text);
    }
    let message = |text: &str| text.parse::<ModelSource>().unwrap_err().to_string();
    assert_eq!(
        message("embedded:llama"),
        "\"embedded:llama\" is not a model source: no embedded model is called \"llama\", expected embedded:smollm2-135m-instruct"
    );
    for wrong in ["hf:name", "hf:a/b/c", "hf:../x", "hf:a/b@"] {
        assert_eq!(
            message(wrong),
            format!(
                "\"{wrong}\" is not a model source: expected hf:owner/name or hf:owner/name@revision"
            )
        );
    }
    assert!(message("").contains("expected a folder, a GGUF file"));
    assert_eq!(
        ModelSource::Path("nowhere/at/all".into())
            .fetch(&mut |_| {})
            .unwrap_err()
            .to_string(),
        "there is no model at nowhere/at/all; expected a Hugging Face folder or a GGUF file"
    );
}

#[test]
fn a_saved_model_opens_again_with_a_stable_identity() {
    let folder = tempfile::tempdir().unwrap();
    let model = test_model::model(3);
    model.save_hf(folder.path(), DType::F32).unwrap();
    let source = ModelSource::Path(folder.path().to_owned());
    let opened = open(&source, &mut |_| {}).unwrap();
    assert_eq!(opened.config, model.config);
    assert_eq!(opened.identity.len(), 64);
    let again = open(&source, &mut |_| {}).unwrap();
    assert_eq!(opened.identity, again.identity);
    assert_eq!(
        source.config_without_fetching().unwrap(),
        Some(model.config)
    );

    test_model::model(4)
        .save_hf(folder.path(), DType::F32)
        .unwrap();
    let other = open(&source, &mut |_| {}).unwrap();
    assert_ne!(opened.identity, other.identity);
}

#[test]
fn weights_larger_than_memory_are_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    test_model::model(3)
        .save_hf(folder.path(), DType::F32)
        .unwrap();
    let file = folder.path().join("model.safetensors");
    let bytes = file.metadata().unwrap().len();
    std::fs::write(
        folder.path().join("consolidated.safetensors"),
        "another form",
    )
    .unwrap();
    for path in [folder.path(), &file] {
        let model = ModelSource::Path(path.to_owned())
            .fetch(&mut |_| {})
            .unwrap();
        let text = model.fits(Some(bytes - 1)).unwrap_err().to_string();
        let expected = format!(
            "the weights take {bytes} bytes of memory, {} are available",
            bytes - 1
        );
        assert!(text.contains(&expected), "{text}");
        model.fits(Some(bytes)).unwrap();
        model.fits(None).unwrap();
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = test_model::model(3);
    model.config.vocab_size = 200;
    model.config.eos_token_ids.clear();
    model.weights = test_model::weights(&model.config, 1);
    model.save_hf(folder.path(), DType::F32).unwrap();
    let error = open(&ModelSource::Path(folder.path().to_owned()), &mut |_| {});
    assert!(error.err().unwrap().to_string().ends_with(
        "the tokenizer has 265 tokens, the model only 200 embedding rows; they are not of one model; take the tokenizer's files from where the weights came from"
    ));
}

/// A stand-in for the embedded model: the file holds "weights".
const TINY: Pinned = Pinned {
    name: "tiny",
    file_name: "tiny.gguf",
    sha256: "",
    bytes: 7,
    requirement: "tiny-wheel==1.0",
    hub: ("owner/tiny", "main"),
};

fn tiny() -> Pinned {
    let hash = crate::digest::hex(&Sha256::digest(b"weights"));
    Pinned {
        sha256: Box::leak(hash.into_boxed_str()),
        ..TINY
    }
}

/// A script cannot be started while another test's new process still holds it open for writing, so
/// tests that use one go one after the other.
#[cfg(unix)]
static ONE_SCRIPT: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A wheel whose one file holds `contents`, and a script that plays `python -m pip download` with it,
/// leaving a line in `calls` each time.
#[cfg(unix)]
fn fake_pip(folder: &Path, contents: &[u8]) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let wheel = folder.join("tiny_wheel-1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file("tiny/tiny.gguf", options).unwrap();
    archive.write_all(contents).unwrap();
    archive.finish().unwrap();
    let (script, calls) = (folder.join("python"), folder.join("calls"));
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\necho \"$*\" >> '{}'\nwhile [ \"$1\" != --dest ]; do shift; done\ncp '{}' \"$2\"\n",
            calls.display(),
            wheel.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (script, calls)
}

#[cfg(unix)]
#[test]
fn the_wheel_is_fetched_once_even_by_two_at_a_time() {
    let _alone = ONE_SCRIPT.lock();
    let folder = tempfile::tempdir().unwrap();
    let (script, calls) = fake_pip(folder.path(), b"weights");
    let fetch = || {
        let places = Places {
            explicit: None,
            cache: Some(folder.path().join("cache")),
            pythons: vec!["no-such-python".into(), script.clone()],
            hub: false,
        };
        fetch_from(&tiny(), &places, &mut |_| {}).unwrap()
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(fetch);
        let two = scope.spawn(fetch);
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one.path, two.path);
    assert_eq!(std::fs::read(&one.path).unwrap(), b"weights");
    let calls_made = std::fs::read_to_string(&calls).unwrap();
    assert_eq!(calls_made.lines().count(), 1);
    assert!(calls_made.contains("download --no-deps") && !calls_made.contains("install"));

    // A damaged file in the cache is replaced.
    std::fs::write(&one.path, b"damaged").unwrap();
    assert_eq!(std::fs::read(fetch().path).unwrap(), b"weights");
    assert_eq!(std::fs::read_to_string(&calls).unwrap().lines().count(), 2);
    let left: Vec<String> = std::fs::read_dir(folder.path().join("cache"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    assert_eq!(left, ["tiny.gguf"]);
}

#[cfg(unix)]
#[test]
fn every_way_that_failed_is_told_in_order() {
    let _alone = ONE_SCRIPT.lock();
    let folder = tempfile::tempdir().unwrap();
    let (script, _) = fake_pip(folder.path(), b"other weights");
    let places = Places {
        explicit: None,
        cache: Some(folder.path().join("cache")),
        pythons: vec![script],
        hub: false,
    };
    let error = fetch_from(&tiny(), &places, &mut |_| {}).unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "cannot get the model tiny; tried, in this order:");
    assert!(
        lines[1].starts_with("  - the cache: ") && lines[1].ends_with("tiny.gguf is not there")
    );
    assert!(lines[2].starts_with("  - the Python wheel tiny-wheel==1.0: "));
    assert!(lines[2].contains("sha256 is ") && lines[2].contains("the download was damaged"));
    assert_eq!(lines[3], "  - the hub: HF_HUB_OFFLINE forbids asking it");
    assert!(lines[4].starts_with("Install Python's pip"));
    assert!(lines[4].contains("PACOS_EMBEDDED_MODEL"));
}

#[test]
fn an_explicit_path_must_be_the_pinned_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.gguf");
    let places = Places {
        explicit: Some(path.clone()),
        cache: None,
        pythons: Vec::new(),
        hub: false,
    };
    let message = || {
        fetch_from(&tiny(), &places, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(message().contains("PACOS_EMBEDDED_MODEL names"));
    std::fs::write(&path, b"another").unwrap();
    assert!(message().ends_with("to use another file, name its path as the model's source"));
    std::fs::write(&path, b"weights").unwrap();
    let found = fetch_from(&tiny(), &places, &mut |_| {}).unwrap();
    assert_eq!(found.path, path);
}

/// The embedded model if this machine already has it; tests never fetch it.
pub(crate) fn embedded_if_present() -> Option<Model> {
    let path = EmbeddedModel::Smollm2.path()?;
    if !path.is_file() {
        // Written past the test harness, which shows no output of tests that pass.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED a test of the embedded model: {} is not there; open embedded:smollm2-135m-instruct once, or set PACOS_EMBEDDED_MODEL\n",
            path.display()
        );
        return None;
    }
    let source = ModelSource::Embedded(EmbeddedModel::Smollm2);
    Some(open(&source, &mut |_| {}).unwrap())
}

#[test]
fn the_embedded_model_is_what_its_pin_says() {
    let Some(model) = embedded_if_present() else {
        return;
    };
    assert_eq!(model.config, EmbeddedModel::Smollm2.config());
    assert_eq!(model.identity, EmbeddedModel::Smollm2.sha256());
    // Tokens as llama.cpp gives them for the same file.
    let encode = |text: &str| model.tokenizer.encode(text, true).unwrap();
    assert_eq!(encode("Hello world"), [19556, 905]);
    assert_eq!(encode("<|im_start|>"), [1]);
    let text = "naïve 日本語 1969 don't\n\n\t  end";
    assert_eq!(model.tokenizer.decode(&encode(text), false).unwrap(), text);
}

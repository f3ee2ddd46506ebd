use candle_core::quantized::gguf_file::{self, Value as GgufValue};
use serde_json::json;

use super::*;
use crate::llama::test_model;

const TEXTS: [&str; 6] = [
    "hello world",
    "  two  spaces\n\tand tabs ",
    "in 1969 they said: don't",
    "naïve façade — 日本語 😀",
    "",
    "<|im_start|>user\nhi<|im_end|>",
];

fn gguf(path: &Path, metadata: &[(&str, GgufValue)]) {
    let metadata: Vec<(&str, &GgufValue)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &[]).unwrap();
}

fn text(value: &str) -> GgufValue {
    GgufValue::String(value.to_owned())
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> GgufValue {
    GgufValue::Array(values.into_iter().map(text).collect())
}

/// The tiny byte-level tokenizer as the metadata that llama.cpp's converter would write.
fn byte_level_metadata() -> Vec<(&'static str, GgufValue)> {
    let json = test_model::tokenizer_json();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()))
        .collect();
    let types = (0..vocab.len())
        .map(|id| GgufValue::I32(if id < 3 { 3 } else { 1 }))
        .collect();
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        (
            "tokenizer.ggml.tokens",
            texts(vocab.keys().map(String::as_str)),
        ),
        ("tokenizer.ggml.token_type", GgufValue::Array(types)),
        (
            "tokenizer.ggml.merges",
            texts(merges.iter().map(String::as_str)),
        ),
        ("tokenizer.ggml.bos_token_id", GgufValue::U32(1)),
        ("tokenizer.ggml.eos_token_id", GgufValue::U32(2)),
        ("tokenizer.chat_template", text(test_model::CHAT_TEMPLATE)),
    ]
}

#[test]
fn texts_come_back_whole() {
    let tokenizer = test_model::tokenizer();
    for text in TEXTS {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|id| tokenizer.token_bytes(*id))
            .copied()
            .collect();
        assert_eq!(bytes, text.as_bytes());
    }
    let hello = tokenizer.encode("hello", false).unwrap();
    assert_eq!(hello, [tokenizer.token_id("hello").unwrap()]);
}

#[test]
fn special_tokens_are_known_and_left_out_on_demand() {
    let tokenizer = test_model::tokenizer();
    let ids = tokenizer
        .encode("<|im_start|>hello<|im_end|>", false)
        .unwrap();
    assert_eq!((ids[0], ids[2]), (1, 2));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(ids[1]));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello");
    assert_eq!(tokenizer.special_token("bos_token"), Some("<|im_start|>"));
    assert_eq!(tokenizer.special_token("eos_token"), Some("<|im_end|>"));
}

#[test]
fn a_saved_tokenizer_loads_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = test_model::tokenizer();
    tokenizer.save_hf(folder.path()).unwrap();
    let again = Tokenizer::load(folder.path()).unwrap();
    for text in TEXTS {
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            again.encode(text, true).unwrap()
        );
    }
    assert!(again.has_chat_template());
    assert_eq!(again.special_token("eos_token"), Some("<|im_end|>"));
}

#[test]
fn a_byte_level_gguf_gives_the_folders_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf(&path, &byte_level_metadata());
    let (ours, theirs) = (Tokenizer::load(&path).unwrap(), test_model::tokenizer());
    assert_eq!(ours.vocab_size(), theirs.vocab_size());
    for text in TEXTS {
        assert_eq!(
            ours.encode(text, true).unwrap(),
            theirs.encode(text, true).unwrap()
        );
    }
    ours.save_hf(folder.path()).unwrap();
    let saved = Tokenizer::load(folder.path()).unwrap();
    let messages = [ChatMessage::new("user", "hello")];
    assert_eq!(
        saved.apply_chat_template(&messages, true).unwrap(),
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn unknown_kinds_of_gguf_tokenizer_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let message = |change: (&'static str, GgufValue)| {
        let mut metadata = byte_level_metadata();
        metadata.retain(|(key, _)| *key != change.0);
        metadata.push(change);
        gguf(&path, &metadata);
        let error = Tokenizer::load(&path).err().unwrap().to_string();
        error.replace(&path.display().to_string(), "MODEL")
    };
    assert_eq!(
        message(("tokenizer.ggml.model", text("bert"))),
        "the tokenizer in MODEL cannot be used: tokenizer.ggml.model is \"bert\", expected \"gpt2\" or \"llama\""
    );
    assert!(
        message(("tokenizer.ggml.pre", text("qwen2"))).contains("tokenizer.ggml.pre is \"qwen2\"")
    );
    assert!(message(("tokenizer.ggml.merges", texts(["nospace"]))).contains("is not two tokens"));
    assert_eq!(
        Tokenizer::load(folder.path())
            .err()
            .unwrap()
            .to_string()
            .replace(&folder.path().display().to_string(), "MODEL"),
        "MODEL holds neither tokenizer.json nor tokenizer.model; expected a Hugging Face model folder"
    );
}

#[test]
fn a_sentence_piece_gguf_merges_by_score_and_falls_back_to_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3];
    for byte in 0..256 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
    }
    // Pieces in order of preference, as their scores say.
    let pieces = [
        "▁", "h", "e", "l", "o", "▁h", "lo", "he", "ello", "el", "▁hello", "▁he", "llo",
    ];
    let scores: Vec<f32> = (0..tokens.len())
        .map(|_| 0.0)
        .chain((0..pieces.len()).map(|i| -(i as f32)))
        .collect();
    tokens.extend(pieces.map(str::to_owned));
    types.resize(tokens.len(), 1);
    gguf(
        &path,
        &[
            ("tokenizer.ggml.model", text("llama")),
            (
                "tokenizer.ggml.tokens",
                texts(tokens.iter().map(String::as_str)),
            ),
            (
                "tokenizer.ggml.scores",
                GgufValue::Array(scores.into_iter().map(GgufValue::F32).collect()),
            ),
            (
                "tokenizer.ggml.token_type",
                GgufValue::Array(types.into_iter().map(GgufValue::I32).collect()),
            ),
            ("tokenizer.ggml.bos_token_id", GgufValue::U32(1)),
            ("tokenizer.ggml.eos_token_id", GgufValue::U32(2)),
        ],
    );
    let tokenizer = Tokenizer::load(&path).unwrap();
    let pieces_of = |text: &str, special: bool| -> Vec<String> {
        tokenizer
            .encode(text, special)
            .unwrap()
            .iter()
            .map(|id| tokens[*id as usize].clone())
            .collect()
    };
    assert_eq!(pieces_of("hello", true), ["<s>", "▁hello"]);
    // ▁h (-5) first; then el (-9) is preferred to ▁he (-11).
    assert_eq!(pieces_of("hel", false), ["▁h", "el"]);
    // lo (-6) takes the l before el could.
    assert_eq!(pieces_of("helo", false), ["▁he", "lo"]);
    assert_eq!(pieces_of("hé", false), ["▁h", "<0xC3>", "<0xA9>"]);
    let ids = tokenizer.encode("hello é", true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello é");
    assert_eq!(tokenizer.token_bytes(ids[1]), b" hello");
}

fn with_template(template: &str) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    test_model::tokenizer().save_hf(folder.path()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

#[test]
fn chat_templates_run_as_in_transformers() {
    // The constructs that published templates lean on: trimmed blocks, methods of strings, slices,
    // tojson, the loop's neighbours and errors of their own.
    let template = "
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0].content.strip() %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'none' %}
{%- endif %}
{{- bos_token + system + '|' }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {{- message | tojson }}
    {%- if not loop.last %}, {% endif %}
{%- endfor %}
{%- if tools is none and not strftime_now is defined %}!{% endif %}";
    let tokenizer = with_template(template);
    let messages = [
        ChatMessage::new("system", "  be kind "),
        ChatMessage::new("user", "a < b & 'c'"),
        ChatMessage::new("assistant", "é"),
    ];
    assert_eq!(
        tokenizer.apply_chat_template(&messages, false).unwrap(),
        r#"<|im_start|>be kind|{"role": "user", "content": "a < b & 'c'"}, {"role": "assistant", "content": "é"}!"#
    );
    let error = tokenizer
        .apply_chat_template(&messages[2..], false)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the model's chat template refuses these messages: roles must alternate"),
        "{error}"
    );
}

#[test]
fn generation_blocks_of_transformers_are_rendered_as_what_they_hold() {
    let template = "{% for message in messages %}
{%- if message.role == 'assistant' %}
a:
{%- generation -%}
{% set text = message.content %} {{ text }}
  {%  endgeneration  +%}
 end{{ text }} {% else %}{{ message.content }}; {% endif %}
{% endfor %}{% if add_generation_prompt %}{% generation %}a: {% endgeneration %}{% endif %}";
    let tokenizer = with_template(template);
    let messages = [
        ChatMessage::new("user", "one"),
        ChatMessage::new("assistant", "two"),
    ];
    assert_eq!(
        tokenizer.apply_chat_template(&messages, true).unwrap(),
        // What transformers 5.23 renders.
        "one; a: two\n\n end a: "
    );
}

#[test]
fn a_model_without_template_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("tokenizer.json"),
        test_model::tokenizer_json().to_string(),
    )
    .unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        json!({"chat_template": [{"name": "tool_use", "template": "x"}]}).to_string(),
    )
    .unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let error = tokenizer.apply_chat_template(&[], true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this model has no chat template; ask it with a plain prompt, or name an instruction-tuned model"
    );
}

/// The 520 pieces and scores of a BPE model that the library sentencepiece 0.2.3 trained on these
/// documents, with LLaMA's settings: byte fallback, texts left as they are, digits apart, a space before
/// the first word. This is the list that it writes beside its model.
const SENTENCE_PIECE: &str = include_str!("testdata/bpe.vocab");

/// The model of that list, in SentencePiece's own format.
fn sentence_piece_model() -> Vec<u8> {
    let field = |number: u8, content: &[u8]| -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 128, "one byte holds the length");
        [&[number << 3 | 2, length], content].concat()
    };
    let mut model = Vec::new();
    for (id, line) in SENTENCE_PIECE.lines().enumerate() {
        let (text, score) = line.rsplit_once('\t').unwrap();
        let kind = match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        };
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.parse::<f32>().unwrap().to_le_bytes());
        piece.extend([3 << 3, kind]);
        model.extend(field(1, &piece));
    }
    // Of the kind BPE, with byte fallback (field 35); a space before the first word, and no white space
    // taken away.
    model.extend(field(2, &[3 << 3, 2, 0x98, 0x02, 1]));
    model.extend(field(3, &[3 << 3, 1, 4 << 3, 0]));
    model
}

/// What that library makes of texts.
const PIECES: [(&str, &[u32]); 6] = [
    ("hello world", &[447, 262, 458, 369, 273, 276, 424]),
    (
        "  two  spaces\n\tand tabs ",
        &[
            292, 259, 467, 452, 447, 280, 463, 306, 277, 13, 12, 338, 259, 450, 470, 451, 447,
        ],
    ),
    (
        "in 1969 they said: don't",
        &[
            299, 447, 474, 501, 481, 501, 268, 471, 280, 450, 364, 478, 335, 291, 485, 449,
        ],
    ),
    (
        "naïve façade — 日本語 😀",
        &[
            283, 450, 198, 178, 439, 275, 450, 198, 170, 450, 303, 447, 229, 131, 151, 447, 233,
            154, 168, 233, 159, 175, 235, 173, 161, 447, 243, 162, 155, 131,
        ],
    ),
    ("", &[]),
    (
        "The student is trained on the examples.",
        &[
            396, 319, 404, 320, 300, 390, 345, 279, 309, 268, 304, 499, 450, 301, 458, 277, 468,
        ],
    ),
];

fn sentence_piece_folder(model: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.model"), model).unwrap();
    folder
}

#[test]
fn a_sentence_piece_model_cuts_as_its_own_library_does() {
    let folder = sentence_piece_folder(&sentence_piece_model());
    let added = json!({"<|user|>": 520, "[PAD]": 521});
    std::fs::write(folder.path().join("added_tokens.json"), added.to_string()).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 522);
    for (text, pieces) in PIECES {
        assert_eq!(tokenizer.encode(text, false).unwrap(), pieces, "{text:?}");
        assert_eq!(tokenizer.decode(pieces, true).unwrap(), text);
        // LLaMA begins every text with <s>.
        let whole = tokenizer.encode(text, true).unwrap();
        assert_eq!((whole[0], &whole[1..]), (1, pieces));
    }
    assert_eq!(tokenizer.special_token("eos_token"), Some("</s>"));
    assert_eq!(tokenizer.encode("<|user|>", false).unwrap(), [520]);

    // What is written is read again, without tokenizer.model.
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save_hf(saved.path()).unwrap();
    let again = Tokenizer::load(saved.path()).unwrap();
    for (text, pieces) in PIECES {
        assert_eq!(again.encode(text, false).unwrap(), pieces);
    }

    let config = json!({"add_bos_token": false, "bos_token": "<s>"});
    let path = folder.path().join("tokenizer_config.json");
    std::fs::write(path, config.to_string()).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("hello world", true).unwrap(), PIECES[0].1);
}

#[test]
fn sentence_piece_models_that_cannot_be_read_say_why() {
    let told = |model: &[u8]| {
        let folder = sentence_piece_folder(model);
        let error = Tokenizer::load(folder.path()).err().unwrap().to_string();
        error.replace(&folder.path().display().to_string(), "MODEL")
    };
    let whole = sentence_piece_model();
    let cut = told(&whole[..whole.len() - 1]);
    assert_eq!(
        cut,
        "the tokenizer in MODEL/tokenizer.model cannot be used: it is no model of SentencePiece, or is damaged: it ends within a field"
    );
    // One piece, and no word of the kind of model or of what is done to texts: what the format then means.
    let unigram = told(&[10, 3, 10, 1, b'a']);
    assert!(
        unigram.contains("it is a model of kind unigram, expected BPE; load it once"),
        "{unigram}"
    );
    let squeezing = told(&[10, 3, 10, 1, b'a', 18, 2, 24, 2]);
    assert!(
        squeezing.contains("it changes texts before it cuts them"),
        "{squeezing}"
    );
    assert!(told(b"").contains("it has no pieces"));
}

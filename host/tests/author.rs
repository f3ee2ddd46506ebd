//! `pacos plugin new`, `build` and `test`: what they write builds and passes, in every language,
//! and what stands in their way is said with the way out.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const KINDS: [&str; 3] = ["generator", "filter", "evaluator"];

/// The command, given in a folder. Its cargo builds where the next run of these tests finds it.
fn pacos(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacos"));
    command.current_dir(folder).args(["plugin"]).args(arguments);
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/author");
    command.env("CARGO_TARGET_DIR", target);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints, if it succeeds.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}{err}");
    out
}

/// Its exit code and what it says, if it fails.
fn refused(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert!(!status.success(), "{command:?} succeeded");
    (status.code().unwrap(), text(&stderr))
}

fn new(folder: &Path, name: &str, kind: &str, language: &str) {
    let arguments = ["new", name, "--kind", kind, "--lang", language];
    printed(&mut pacos(folder, &arguments));
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// `new`, `build` and `test` of one kind.
fn works(folder: &Path, kind: &str, language: &str) {
    let name = format!("{language}-{kind}");
    new(folder, &name, kind, language);
    let output = pacos(folder, &["build", &name]).output().unwrap();
    let (built, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");
    assert!(
        built.starts_with(&format!("built {name}/build/{name}.wasm: ")),
        "{built}"
    );
    let tested = printed(&mut pacos(folder, &["test", &name]));
    let last = tested.lines().last().unwrap_or_default();
    let cases = fs::read_to_string(folder.join(&name).join("tests/cases.toml")).unwrap();
    let count = cases.matches("[[case]]").count();
    assert!(count >= 5, "{cases}");
    let file = format!("{name}/build/{name}.wasm");
    assert_eq!(last, format!("{count} of {count} cases passed, on {file}"));
    let checked = printed(&mut pacos(folder, &["check", &file]));
    assert!(checked.contains(", 0 failed"), "{checked}");
}

/// The same source as a dynamic library, under the same cases.
fn works_natively(folder: &Path, kind: &str, language: &str) {
    let name = format!("{language}-{kind}");
    let tested = printed(&mut pacos(folder, &["test", "--native", &name]));
    let last = tested.lines().last().unwrap_or_default();
    assert!(last.ends_with(std::env::consts::DLL_SUFFIX), "{last}");
    assert!(!last.starts_with('0'), "{last}");
}

#[test]
fn rust_projects_build_and_pass() {
    let folder = folder();
    for kind in KINDS {
        works(folder.path(), kind, "rust");
        works_natively(folder.path(), kind, "rust");
    }
}

#[test]
fn c_projects_build_and_pass() {
    let folder = folder();
    for kind in KINDS {
        works(folder.path(), kind, "c");
        works_natively(folder.path(), kind, "c");
        let file = format!("c-{kind}/build/c-{kind}.wasm");
        let about = printed(&mut pacos(folder.path(), &["inspect", &file]));
        assert!(about.starts_with(&format!("c-{kind} 0.1.0\n")), "{about}");
        let contract = format!("pacos:plugin/{kind}@{}", pacos_plugin::CONTRACT);
        assert!(about.contains(&contract), "{about}");
        // Its code and what it uses of a C library, without that library's debug information.
        let size = fs::metadata(folder.path().join(&file)).unwrap().len();
        assert!(size < 200_000, "{file}: {size} bytes");
    }
}

#[test]
fn python_projects_build_and_pass() {
    let folder = folder();
    for kind in KINDS {
        works(folder.path(), kind, "python");
    }
}

#[test]
fn javascript_projects_build_and_pass() {
    let folder = folder();
    for kind in KINDS {
        works(folder.path(), kind, "javascript");
    }
}

/// What `test` prints of a filter in which `line` is another.
fn tested_with(language: &str, file: &str, line: &str, other: &str) -> String {
    let folder = folder();
    new(folder.path(), "short", "filter", language);
    let source = folder.path().join("short/src").join(file);
    let text = fs::read_to_string(&source).unwrap();
    assert!(text.contains(line), "{text}");
    fs::write(&source, text.replace(line, other)).unwrap();
    let output = pacos(folder.path(), &["test", "short"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    String::from_utf8(output.stdout).unwrap()
}

/// The filter of `new`, made to count the words of what a server says and not of the answer.
fn asks_a_server(language: &str, file: &str, changes: &[(&str, &str)]) {
    let folder = folder();
    new(folder.path(), "short", "filter", language);
    let project = folder.path().join("short");
    let source = project.join("src").join(file);
    let mut text = fs::read_to_string(&source).unwrap();
    for (line, other) in changes {
        assert!(text.contains(line), "{line}\n---\n{text}");
        text = text.replacen(line, other, 1);
    }
    fs::write(&source, text).unwrap();
    let cases = r#"
[[case]]
name = "a word, and then three"
replies = [{ status = 200, body = "one" }, { status = 404, body = "no such page" }]
input = [{ instruction = "A", output = "b" }, { instruction = "C", output = "d" }]
expect = [{ code = "answer-too-short" }, { code = "kept", scores = { words = 3.0 } }]
"#;
    fs::write(project.join("tests/cases.toml"), cases).unwrap();
    printed(&mut pacos(folder.path(), &["test", "short"]));
    let about = printed(&mut pacos(
        folder.path(),
        &["inspect", "short/build/short.wasm"],
    ));
    assert!(about.contains("http:facts.example.com"), "{about}");
}

#[test]
fn a_filter_in_c_asks_a_server() {
    asks_a_server(
        "c",
        "plugin.c",
        &[
            (
                "    description->config_schema",
                "    static pacos_string wanted = {\"http:facts.example.com\", 22};\n    \
                 description->capabilities.items = &wanted;\n    \
                 description->capabilities.len = 1;\n    description->config_schema",
            ),
            (
                "        size_t words = count_words(answer(&batch->items[i].payload));\n",
                "        pacos_http_request request;\n        pacos_http_response response;\n        \
                 pacos_string body;\n        size_t words;\n        \
                 (void)answer;\n        memset(&request, 0, sizeof request);\n        \
                 request.method = PACOS_HTTP_METHOD_GET;\n        \
                 request.url = pacos_str(\"https://facts.example.com/\");\n        \
                 if (!pacos_fetch(call, &request, &response))\n            return false;\n        \
                 body.ptr = (const char *)response.body.items;\n        \
                 body.len = response.body.len;\n        words = count_words(body);\n",
            ),
        ],
    );
}

#[test]
fn a_filter_in_python_asks_a_server() {
    asks_a_server(
        "python",
        "plugin.py",
        &[
            (
                "from wit_world.imports.types import (",
                "from wit_world.imports.http import HttpMethod, HttpRequest, fetch\n\
                 from wit_world.imports.types import (",
            ),
            (
                "capabilities=[]",
                "capabilities=[\"http:facts.example.com\"]",
            ),
            (
                "        words = len(answer(candidate.payload).split())\n",
                "        request = HttpRequest(HttpMethod.GET, \"https://facts.example.com/\", [], b\"\")\n        \
                 words = len(fetch(request).body.split())\n",
            ),
        ],
    );
}

#[test]
fn a_filter_in_javascript_asks_a_server() {
    asks_a_server(
        "javascript",
        "plugin.js",
        &[
            (
                "import { plugin }",
                "import { fetch as ask } from 'pacos:plugin/http@0.1.1';\nimport { plugin }",
            ),
            (
                "capabilities: []",
                "capabilities: ['http:facts.example.com']",
            ),
            (
                "  const words = answer(payload)",
                "  const url = 'https://facts.example.com/';\n  \
                 const response = ask({ method: 'get', url, headers: [], body: new Uint8Array() });\n  \
                 const words = new TextDecoder().decode(response.body)",
            ),
        ],
    );
}

#[test]
fn what_a_component_in_c_asks_of_the_system_is_denied_and_named() {
    let folder = folder();
    new(folder.path(), "short", "filter", "c");
    let source = folder.path().join("short/src/plugin.c");
    let text = fs::read_to_string(&source).unwrap();
    let line = "    verdicts->len = batch->len;\n";
    let file = "    if (fopen(\"/etc/passwd\", \"r\") == NULL)\n        printf(\"no file\\n\");\n";
    assert!(text.contains(line));
    fs::write(&source, text.replace(line, &format!("{line}{file}"))).unwrap();
    let output = pacos(folder.path(), &["-v", "test", "short"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("path_open"), "{said}");
    assert!(said.contains("no file"), "{said}");
}

#[test]
fn an_exception_reaches_the_one_who_runs_the_plugin() {
    let line = "return [self.verdict(candidate) for candidate in batch]";
    let python = tested_with("python", "plugin.py", line, "raise ValueError('no words')");
    assert!(
        python.contains("ValueError: no words\n  at ") && python.contains("plugin.py:"),
        "{python}"
    );
    assert!(python.contains("in Filter.judge"), "{python}");

    let line = "return batch.map(verdict);";
    let javascript = tested_with(
        "javascript",
        "plugin.js",
        line,
        "throw new Error('no words');",
    );
    assert!(javascript.contains("Error: no words"), "{javascript}");
}

#[test]
fn a_panic_names_the_line_of_the_authors_own_source() {
    let folder = folder();
    new(folder.path(), "short", "filter", "rust");
    let source = folder.path().join("short/src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    let line = "            .rfind(|message| message.role == \"assistant\")\n";
    let (before, _) = text.split_once(line).unwrap();
    let number = before.lines().count() + 1;
    let other = line.replace(
        "message.role == \"assistant\"",
        "message.content.is_empty() || broken(message)",
    );
    let broken = "\n#[inline(never)]\nfn broken(message: &pacos_plugin::Message) -> bool {\n    \
                  while message.content == \"Again?\" {\n        std::hint::spin_loop();\n    }\n    \
                  panic!(\"no words\")\n}\n";
    fs::write(&source, text.replace(line, &other) + broken).unwrap();
    printed(&mut pacos(folder.path(), &["build", "short"]));
    let records = folder.path().join("records.jsonl");
    fs::write(
        &records,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"So?\"}]}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"Again?\"}]}\n",
    )
    .unwrap();
    let arguments = [
        "run",
        "short/build/short.wasm",
        "records.jsonl",
        "--compute-seconds",
        "0.2",
    ];
    let output = pacos(folder.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // One that computes for ever is interrupted somewhere, and that is told as for a panic.
    for (said, error, words) in [
        (&said[0], "trap", "no words"),
        (&said[1], "timeout", "it computed for more than 0.2 s"),
    ] {
        assert_eq!(said["error"], error);
        let message = said["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        // A panic's own place is in its first line; below are the calls that led there.
        let (_, calls) = message.split_once("\n    at ").unwrap();
        assert!(calls.contains("broken ("), "{message}");
        assert!(
            calls.contains(&format!("src/lib.rs:{number})")),
            "{message}"
        );
    }
}

/// A project in C, built as a library: the quickest to change and to test again.
fn c_filter(folder: &Path) -> std::path::PathBuf {
    new(folder, "short", "filter", "c");
    printed(&mut pacos(folder, &["test", "--native", "short"]));
    folder.join("short")
}

#[test]
fn a_case_that_fails_says_what_differs() {
    let folder = folder();
    let project = c_filter(folder.path());
    let cases = project.join("tests/cases.toml");
    let text = fs::read_to_string(&cases).unwrap();
    fs::write(&cases, text.replacen("\"drop\"", "\"keep\"", 1)).unwrap();
    let output = pacos(folder.path(), &["test", "--native", "short"])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{printed}");
    assert!(
        printed.starts_with("failed: an answer of fewer words than wanted is dropped\n    input 1"),
        "{printed}"
    );
    assert!(printed.contains("4 of 5 cases passed"), "{printed}");
}

#[test]
fn what_has_changed_is_built_again_and_nothing_else_is() {
    let folder = folder();
    let project = c_filter(folder.path());
    let library = project
        .join("build/short")
        .with_extension(std::env::consts::DLL_EXTENSION);
    let built = |path: &Path| path.metadata().unwrap().modified().unwrap();
    let first = built(&library);
    printed(&mut pacos(folder.path(), &["test", "--native", "short"]));
    assert_eq!(built(&library), first);

    let source = project.join("src/plugin.c");
    let changed = fs::read_to_string(&source)
        .unwrap()
        .replace("answer-too-short", "too-short");
    fs::write(&source, changed).unwrap();
    let output = pacos(folder.path(), &["test", "--native", "short"])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(built(&library) > first);
    assert!(printed.contains("\"too-short\""), "{printed}");
}

#[test]
fn names_that_no_plugin_can_have() {
    let folder = folder();
    for name in [
        "Short", "1st", "a--b", "a_b", "../a", "-", "", "fn", "serde",
    ] {
        let mut command = pacos(
            folder.path(),
            &["new", "--kind", "filter", "--lang", "rust"],
        );
        let (code, said) = refused(command.args(["--", name]));
        assert_eq!(code, 2, "{said}");
        assert!(said.starts_with("error: the name is "), "{said}");
        assert!(said.contains(&format!("{name:?}")), "{said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let folder = folder();
    fs::create_dir(folder.path().join("short")).unwrap();
    new(folder.path(), "short", "filter", "rust");
    let readme = folder.path().join("short/README.md");
    fs::write(&readme, "mine").unwrap();
    let arguments = ["new", "short", "--kind", "filter", "--lang", "python"];
    let (code, said) = refused(&mut pacos(folder.path(), &arguments));
    assert_eq!(code, 2);
    assert_eq!(
        said,
        "error: short is there already, and nothing is overwritten: expected a folder that does \
         not exist or is empty. Choose another name, or write --path DIR\n"
    );
    assert_eq!(fs::read_to_string(readme).unwrap(), "mine");
    assert!(!folder.path().join("short/src/plugin.py").exists());
}

#[test]
fn kinds_and_languages_that_there_are_not() {
    let folder = folder();
    for [kind, language] in [["trainer", "rust"], ["filter", "cobol"]] {
        let arguments = ["new", "short", "--kind", kind, "--lang", language];
        let (code, said) = refused(&mut pacos(folder.path(), &arguments));
        assert_eq!(code, 2);
        assert!(said.contains("possible values: "), "{said}");
    }
}

#[test]
fn a_folder_that_is_no_project() {
    let folder = folder();
    let (code, said) = refused(&mut pacos(folder.path(), &["build"]));
    assert_eq!(code, 2);
    assert_eq!(
        said,
        "error: . is no plugin project: expected a file plugin.toml in it, as `pacos plugin new` \
         writes one\n"
    );

    fs::write(
        folder.path().join("plugin.toml"),
        "name = \"a\"\nkind = \"trainer\"\nlanguage = \"c\"\n",
    )
    .unwrap();
    let (_, said) = refused(&mut pacos(folder.path(), &["build"]));
    assert_eq!(
        said,
        "error: ./plugin.toml: `kind`: expected generator, filter or evaluator, found `trainer`\n"
    );
}

#[test]
fn a_language_without_libraries() {
    let folder = folder();
    new(folder.path(), "short", "filter", "python");
    let (code, said) = refused(&mut pacos(folder.path(), &["build", "--native", "short"]));
    assert_eq!(code, 2);
    assert_eq!(
        said,
        "error: a plugin in Python is a component and nothing else: expected no --native. \
         Libraries are built from Rust and C\n"
    );
}

/// What `build` says on a machine where nothing is installed.
fn missing(language: &str, arguments: &[&str]) -> String {
    let folder = folder();
    new(folder.path(), "short", "filter", language);
    let mut command = pacos(folder.path(), arguments);
    command.env("PATH", "").env("PACOS_CACHE", folder.path());
    command.env_remove("WASI_SDK_PATH");
    let (code, said) = refused(&mut command);
    assert_eq!(code, 4, "{said}");
    said
}

#[test]
fn every_tool_that_is_missing_is_named_with_what_installs_it() {
    let rust = missing("rust", &["build", "short"]);
    assert!(
        rust.starts_with(
            "error: building a plugin in Rust needs tools that are not here\n  \
             expected cargo; found none in PATH\n      curl "
        ),
        "{rust}"
    );
    assert!(rust.contains("\n  expected rustc; "), "{rust}");
    assert!(rust.contains("\n  expected bash, "), "{rust}");

    assert_eq!(
        missing("python", &["build", "short"]),
        "error: building a plugin in Python needs a tool that is not here\n  \
         expected Python 3.10 or later, with the modules venv and ensurepip; found none in PATH\n\
         \x20     apt-get install python3 python3-venv   # as root\n"
    );

    let javascript = missing("javascript", &["build", "short"]);
    assert!(
        javascript.contains("\n  expected Node 20 or later; found none in PATH\n"),
        "{javascript}"
    );
    assert!(javascript.contains("\n  expected npm; "), "{javascript}");

    let c = missing("c", &["build", "short"]);
    assert!(c.contains("\n  expected zig"), "{c}");
    let native = missing("c", &["build", "--native", "short"]);
    assert!(native.contains("\n  expected a C compiler"), "{native}");
}

#[test]
fn a_rust_project_is_formatted_as_rustfmt_has_it() {
    let folder = folder();
    for kind in KINDS {
        new(folder.path(), kind, kind, "rust");
        let source = folder.path().join(kind).join("src/lib.rs");
        let mut rustfmt = Command::new("rustfmt");
        rustfmt.args(["--check", "--edition", "2024"]).arg(source);
        printed(&mut rustfmt);
    }
}

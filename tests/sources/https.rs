//! Components at web addresses.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    User, component, digest,
    server::{Answer, Asked, Server},
    support::{fails, succeeds},
};

const PATH: &str = "/plugins/hostile.wasm";

/// Serves the component, after as many failures as there are.
fn after(failures: Vec<Answer>) -> impl Fn(&Asked) -> Answer + Send + Sync {
    let (component, asked) = (component(), AtomicUsize::new(0));
    move |_| {
        let time = asked.fetch_add(1, Ordering::SeqCst);
        let failure = failures.get(time).cloned();
        failure.unwrap_or_else(|| Answer::of(component.clone()))
    }
}

fn one(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in:\n{text}");
}

#[test]
fn what_was_fetched_once_needs_no_network_again() {
    let (user, server) = (User::new(), Server::start(after(vec![])));
    let (source, sha256) = (server.url(PATH), digest(&component()));
    let told = succeeds(&mut user.fetch(&source));
    one(&told, "hostile 0.1.0\n");
    one(&told, &format!("from      {source}\n"));
    one(&told, &format!("sha256    {sha256}\n"));
    one(&told, &format!("size      {} bytes\n", component().len()));
    one(&told, &format!("write     sha256 = \"{sha256}\""));
    assert_eq!(server.paths(), [PATH]);
    assert_eq!(fs::read(user.kept(&sha256)).unwrap(), component());

    let filter = format!("plugin = \"{source}\"\nsha256 = \"{sha256}\"");
    server.stop();
    let told = succeeds(user.check(&filter).arg("--offline"));
    one(&told, &source);
    let manifest = user.recipe(&filter);
    let told = succeeds(&mut user.fetch(manifest.to_str().unwrap()));
    one(
        &told,
        "generator: self-instruct 0.1.0\n  from      self-instruct (bundled)",
    );
    one(&told, "filters.0: hostile 0.1.0\n");
    assert!(!told.contains("write"), "{told}");
}

#[test]
fn a_run_fetches_before_it_begins_and_says_so() {
    let (user, server) = (User::new(), Server::start(after(vec![])));
    let (source, sha256) = (server.url(PATH), digest(&component()));
    let filter = format!("plugin = \"{source}\"\nsha256 = \"{sha256}\"");
    for offline in ["--offline", "PACOS_OFFLINE"] {
        let mut check = user.check(&filter);
        match offline {
            "--offline" => check.arg(offline),
            variable => check.env(variable, "1"),
        };
        let told = fails(&mut check, 2);
        one(&told, "recipe.toml:12");
        one(
            &told,
            &format!(
                "{source} is not on this machine, and `--offline` or PACOS_OFFLINE forbids fetching it: run `pacos plugin fetch {source}`"
            ),
        );
    }
    assert!(server.paths().is_empty());
    let output = user.check(&filter).output().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told, format!("fetching {source}\n"));
    succeeds(&mut user.check(&filter));
    assert_eq!(server.paths(), [PATH]);
}

#[test]
fn what_is_not_pinned_is_refused_with_the_line_to_write() {
    let (user, server) = (User::new(), Server::start(after(vec![])));
    let (source, sha256) = (server.url(PATH), digest(&component()));
    let filter = format!("plugin = \"{source}\"");
    let told = fails(&mut user.check(&filter), 2);
    one(&told, "recipe.toml:12");
    one(
        &told,
        &format!("{source} is on another machine, so the recipe must pin it"),
    );
    one(&told, &format!("write `sha256 = \"{sha256}\"`"));
    // With the line, it is what is there already.
    server.stop();
    succeeds(&mut user.check(&format!("{filter}\nsha256 = \"{sha256}\"")));
    let told = fails(&mut User::new().check(&filter), 2);
    one(
        &told,
        &format!("`pacos plugin fetch {source}` prints the line to write"),
    );
}

#[test]
fn another_component_than_the_one_pinned_is_not_kept() {
    let (user, server) = (User::new(), Server::start(after(vec![])));
    let (source, sha256) = (server.url(PATH), digest(&component()));
    let filter = format!("plugin = \"{source}\"\nsha256 = \"{}\"", "0".repeat(64));
    let told = fails(&mut user.check(&filter), 2);
    one(
        &told,
        &format!("{source} has sha256 {sha256}, but the recipe pins 0000"),
    );
    one(
        &told,
        &format!("if the change is meant, write sha256 = \"{sha256}\""),
    );
    assert!(!user.kept(&sha256).exists());
}

#[test]
fn a_copy_that_was_changed_is_not_used_and_can_be_put_right() {
    let (user, server) = (User::new(), Server::start(after(vec![])));
    let (source, sha256) = (server.url(PATH), digest(&component()));
    let filter = format!("plugin = \"{source}\"\nsha256 = \"{sha256}\"");
    succeeds(&mut user.check(&filter));
    let mut changed = component();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(user.kept(&sha256), &changed).unwrap();
    let told = fails(&mut user.check(&filter), 2);
    one(
        &told,
        &format!(
            "{} is damaged: it has sha256 {}",
            user.kept(&sha256).display(),
            digest(&changed)
        ),
    );
    one(
        &told,
        "`pacos plugin fetch` of the manifest or of the source puts it right",
    );
    let manifest = user.recipe(&filter);
    succeeds(&mut user.fetch(manifest.to_str().unwrap()));
    succeeds(user.check(&filter).arg("--offline"));
}

#[test]
fn a_stumbling_server_is_asked_again_and_a_silent_one_is_given_up() {
    let (user, source) = (User::new(), PATH);
    let whole = component();
    let cut = Answer::of(whole.clone()).cut(whole.len() / 2);
    let server = Server::start(after(vec![
        Answer::status(503),
        cut.clone(),
        Answer::status(429),
    ]));
    succeeds(&mut user.fetch(&server.url(source)));
    assert_eq!(server.paths().len(), 4);

    let user = User::new();
    server.behave(move |_| cut.clone());
    let told = fails(&mut user.fetch(&server.url(source)), 4);
    one(&told, "did not come in 5 attempts: ");
    assert_eq!(server.paths().len(), 5);
    server.behave(|_| Answer::status(502));
    let told = fails(&mut user.fetch(&server.url(source)), 4);
    one(
        &told,
        "did not come in 5 attempts: the answer is 502 Bad Gateway; check the network",
    );
    server.stop();
    let told = fails(&mut user.fetch(&server.url(source)), 4);
    one(&told, "did not come in 5 attempts: ");
    one(&told, "refused");
    // Nothing of what came is left behind.
    let kept = fs::read_dir(user.home.path().join("cache/plugins/sha256")).unwrap();
    assert_eq!(kept.count(), 0);
}

#[test]
fn a_redirect_is_followed_where_nobody_can_change_what_comes() {
    let user = User::new();
    let server = Server::start(after(vec![]));
    let there = format!("http://localhost:{}/moved.wasm", server.port());
    let component = component();
    server.behave(move |asked| match asked.path.as_str() {
        PATH => Answer::to(there.clone()),
        _ => Answer::of(component.clone()),
    });
    succeeds(&mut user.fetch(&server.url(PATH)));
    assert_eq!(server.paths(), [PATH, "/moved.wasm"]);

    server.behave(|_| Answer::to("http://plugins.example.org/hostile.wasm"));
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(
        &told,
        "is not to be had: it redirects to http://plugins.example.org/hostile.wasm, expected an \
         address that begins with https://",
    );
    server.behave(|_| Answer::to(PATH));
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(&told, "it redirects without end");
}

#[test]
fn what_is_too_large_or_no_component_is_not_believed() {
    let user = User::new();
    let server = Server::start(|_| {
        let mut answer = Answer::of(vec![0; 8]).cut(8);
        answer.unmeasured = true;
        answer.with("Content-Length", "67108865")
    });
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(&told, "is larger than 64 MiB, the most that is fetched");
    // Nor is a server that does not say how much is to come.
    server.behave(|_| {
        let mut answer = Answer::of(vec![0; (64 << 20) + 1]);
        answer.unmeasured = true;
        answer
    });
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(&told, "is larger than 64 MiB, the most that is fetched");
    server.behave(|_| Answer::of("<!DOCTYPE html><title>Sign in</title>"));
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(
        &told,
        "is no WASM component: it begins with \"<!DOCTYPE html><\"",
    );
    server.behave(|_| Answer::status(404));
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(
        &told,
        "is not to be had: the answer is 404 Not Found: there is no such file",
    );
    server.behave(|_| Answer::status(403));
    let told = fails(&mut user.fetch(&server.url(PATH)), 4);
    one(
        &told,
        "it is not for everybody, and no credentials are sent",
    );
}

#[test]
fn an_address_that_anybody_could_change_is_refused_at_its_line() {
    let user = User::new();
    for (source, says) in [
        ("http://plugins.example.org/a.wasm", "write https://"),
        (
            "https://plugins.example.org/a.so",
            "a dynamic library is downloaded by yourself",
        ),
        ("oci://ghcr.io/owner/plugin", "has neither tag nor digest"),
        (
            "https://me:pw@plugins.example.org/a.wasm",
            "this looks like a key or a password",
        ),
    ] {
        let told = fails(&mut user.check(&format!("plugin = \"{source}\"")), 2);
        one(&told, "recipe.toml:12");
        one(&told, says);
    }
    let told = fails(&mut user.fetch("http://plugins.example.org/a.wasm"), 2);
    one(&told, "write https://");
}

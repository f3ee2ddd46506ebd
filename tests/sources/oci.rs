//! Components in OCI registries.

use std::fs;

use serde_json::json;

use crate::{
    User, component, digest,
    registry::{Holdings, Registry},
    server::{Answer, Server},
    support::{fails, succeeds},
};

const WASM: &str = "application/wasm";

fn one(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in:\n{text}");
}

/// A registry that has the component under `v1`, with the digest of its manifest.
fn registry(more: impl FnOnce(&mut Holdings)) -> (Registry, String) {
    let mut holdings = Holdings::default();
    let manifest = holdings.push("v1", &component(), WASM);
    more(&mut holdings);
    (Registry::start(holdings), manifest)
}

#[test]
fn a_tag_leads_to_a_digest_and_a_digest_to_the_same_component() {
    let (registry, manifest) = registry(|holdings| holdings.tokens = true);
    let (user, sha256) = (User::new(), digest(&component()));
    let told = succeeds(&mut user.fetch(&registry.source(":v1")));
    let pinned = registry.source(&format!("@sha256:{manifest}"));
    one(&told, &format!("from      {}\n", registry.source(":v1")));
    one(&told, &format!("which is  {pinned}\n"));
    one(&told, &format!("sha256    {sha256}\n"));
    one(&told, &format!("write     sha256 = \"{sha256}\""));
    assert_eq!(
        registry.server.paths(),
        [
            "/v2/owner/plugin/manifests/v1",
            "/token?service=loopback&scope=repository%3Aowner%2Fplugin%3Apull",
            "/v2/owner/plugin/manifests/v1",
            &format!("/v2/owner/plugin/blobs/sha256:{sha256}"),
        ]
    );

    // A digest needs no other pin, and what the tag brought is what it means.
    registry.server.stop();
    let told = succeeds(&mut user.fetch(&pinned));
    assert!(!told.contains("write"), "{told}");
    succeeds(&mut user.check(&format!("plugin = \"{pinned}\"")));
    let by_tag = format!("plugin = \"{}\"", registry.source(":v1"));
    succeeds(&mut user.check(&format!("{by_tag}\nsha256 = \"{sha256}\"")));
    let told = fails(&mut user.check(&by_tag), 2);
    one(&told, "so the recipe must pin it");
    // A pin beside a digest holds, too.
    let other = format!("plugin = \"{pinned}\"\nsha256 = \"{}\"", "0".repeat(64));
    one(
        &fails(&mut user.check(&other), 2),
        "but the recipe pins 0000",
    );
}

#[test]
fn an_index_of_one_and_the_older_layout_are_read() {
    let (registry, manifest) = registry(|holdings| {
        holdings.push(
            "old",
            &component(),
            "application/vnd.wasm.content.layer.v1+wasm",
        );
    });
    let entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": format!("sha256:{manifest}"), "size": 1});
    let index = |entries: &[&serde_json::Value]| {
        json!({"schemaVersion": 2, "manifests": entries})
            .to_string()
            .into_bytes()
    };
    let mut index_digest = String::new();
    registry.change(|holdings| {
        index_digest = holdings.push_manifest("index", index(&[&entry]));
        holdings.push_manifest("indices", index(&[&entry, &entry]));
    });
    succeeds(&mut User::new().fetch(&registry.source(":old")));
    let user = User::new();
    let told = succeeds(&mut user.fetch(&registry.source(":index")));
    one(&told, &registry.source(&format!("@sha256:{index_digest}")));
    let told = fails(&mut user.fetch(&registry.source(":indices")), 4);
    one(&told, "it is an index of 2 artifacts, expected one");
    registry.server.stop();
    let filter = registry.source(&format!("@sha256:{index_digest}"));
    succeeds(
        user.check(&format!("plugin = \"{filter}\""))
            .arg("--offline"),
    );
}

#[test]
fn what_has_not_its_digest_is_thrown_away() {
    let (registry, manifest) = registry(|_| {});
    let (user, sha256) = (User::new(), digest(&component()));
    let mut other = component();
    *other.last_mut().unwrap() ^= 1;
    registry.change(|holdings| {
        let blob = holdings.blobs.get_mut(&format!("sha256:{sha256}"));
        *blob.expect("it was pushed") = other.clone();
    });
    let told = fails(&mut user.fetch(&registry.source(":v1")), 4);
    one(
        &told,
        &format!("the component of {}", registry.source(":v1")),
    );
    one(
        &told,
        &format!("has sha256 {}, expected {sha256}", digest(&other)),
    );
    assert!(!user.kept(&sha256).exists() && !user.kept(&digest(&other)).exists());

    let pinned = registry.source(&format!("@sha256:{manifest}"));
    registry.change(|holdings| {
        let changed = b"{\"layers\": []}".to_vec();
        holdings
            .manifests
            .insert(format!("sha256:{manifest}"), changed);
    });
    let told = fails(&mut user.fetch(&pinned), 4);
    one(&told, &format!("the manifest of {pinned} has sha256 "));
    one(&told, &format!("expected {manifest}"));
}

#[test]
fn what_is_not_there_or_no_plugin_is_named() {
    let (registry, _) = registry(|holdings| {
        holdings.push(
            "image",
            b"layer",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        );
    });
    let user = User::new();
    let told = fails(&mut user.fetch(&registry.source(":v9")), 4);
    one(
        &told,
        "the registry has no v9 in owner/plugin; check name and tag",
    );
    let told = fails(&mut user.fetch(&registry.source(":image")), 4);
    one(
        &told,
        "it holds no component: its layers are [application/vnd.oci.image.layer",
    );
    registry
        .server
        .behave(|_| Answer::of("x".repeat((4 << 20) + 1)));
    let told = fails(&mut user.fetch(&registry.source(":v1")), 4);
    one(&told, "the answer is longer than 4194304 bytes");
}

#[test]
fn a_private_repository_wants_credentials_and_they_go_nowhere_else() {
    // base64 of `me:secret`.
    let login = "bWU6c2VjcmV0";
    let (registry, _) = registry(|holdings| {
        holdings.tokens = true;
        holdings.login = Some(format!("Basic {login}"));
    });
    let port = registry.server.port();
    registry.change(|holdings| {
        holdings.store = Some(format!("http://localhost:{port}/elsewhere/"));
    });
    let user = User::new();
    let told = fails(&mut user.fetch(&registry.source(":v1")), 4);
    one(
        &told,
        "the registry answers 401 Unauthorized; check the name; if it is private, ",
    );
    one(
        &told,
        &format!("`docker login 127.0.0.1:{port}` puts credentials into "),
    );

    let folder = user.home.path().join("docker");
    fs::create_dir(&folder).unwrap();
    let configure = |auths: serde_json::Value| {
        fs::write(folder.join("config.json"), auths.to_string()).unwrap();
    };
    let host = format!("127.0.0.1:{port}");
    configure(json!({"auths": {&host: {}}, "credsStore": "desktop"}));
    let told = fails(&mut user.fetch(&registry.source(":v1")), 4);
    one(
        &told,
        "to another program, which is not asked; put them under \"auths\" there",
    );
    configure(json!({"auths": {&host: {"auth": "bWU6d3Jvbmc="}}}));
    let told = fails(&mut user.fetch(&registry.source(":v1")), 4);
    one(&told, "give no access to it");
    assert!(!told.contains("wrong") && !told.contains("bWU6"), "{told}");

    configure(json!({"auths": {&host: {"auth": login}}}));
    registry.server.asked();
    succeeds(&mut user.fetch(&registry.source(":v1")));
    let shown: Vec<_> = registry
        .server
        .asked()
        .into_iter()
        .map(|asked| {
            (
                asked.path.split(['?', ':']).next().unwrap().to_owned(),
                asked.authorisation,
            )
        })
        .collect();
    let of = |path: &str, value: Option<&str>| (path.to_owned(), value.map(str::to_owned));
    assert_eq!(
        shown,
        [
            of("/v2/owner/plugin/manifests/v1", None),
            of("/token", Some(&format!("Basic {login}"))),
            of("/v2/owner/plugin/manifests/v1", Some("Bearer let-me-in")),
            of("/v2/owner/plugin/blobs/sha256", Some("Bearer let-me-in")),
            of("/elsewhere/sha256", None),
        ]
    );

    // A registry that sends for a token to where anybody can listen gets nothing.
    registry.change(|holdings| holdings.realm = Some("http://tokens.example.org/".into()));
    let told = fails(&mut User::new().fetch(&registry.source(":v1")), 4);
    one(
        &told,
        "the registry sends to \"http://tokens.example.org/\" for a token, expected",
    );
}

#[test]
fn a_stumbling_registry_is_asked_again() {
    let (registry, _) = registry(|_| {});
    let behind = registry;
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let front = Server::start(move |request| {
        let time = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let answer = behind.answer(request);
        match time {
            0 | 3 => Answer::status(503),
            1 => answer.cut(10),
            4 => answer.cut(1000),
            _ => answer,
        }
    });
    let source = format!("oci://127.0.0.1:{}/owner/plugin:v1", front.port());
    succeeds(&mut User::new().fetch(&source));
    assert_eq!(front.paths().len(), 6);
}

#[test]
fn a_tag_that_moved_is_noticed() {
    let (registry, manifest) = registry(|_| {});
    let (user, sha256) = (User::new(), digest(&component()));
    let filter = format!(
        "plugin = \"{}\"\nsha256 = \"{sha256}\"",
        registry.source(":v1")
    );
    succeeds(&mut user.check(&filter));
    registry.change(|holdings| {
        let other = b"\0asm of another release";
        assert_ne!(holdings.push("v1", other, WASM), manifest);
    });
    // Who has it goes on with it; who has not is told.
    succeeds(&mut user.check(&filter));
    let told = fails(&mut User::new().check(&filter), 2);
    one(
        &told,
        &format!("but the recipe pins {sha256}: it was changed at its source"),
    );
}

//! `c/bindings` is what `wit-bindgen` makes of the contract for C.

use std::{fs, path::Path};

use wit_bindgen_core::{Files, wit_parser::Resolve};

#[test]
fn the_bindings_in_c_are_what_the_contract_gives() {
    let api = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = api.join("c/bindings");
    let mut expected = Vec::new();
    for stage in ["evaluator", "filter", "generator"] {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(api.join("wit/0.1.1")).unwrap();
        let world = format!("{stage}-plugin");
        let world = resolve.select_world(&[package], Some(&world)).unwrap();
        let mut files = Files::default();
        let mut generator = wit_bindgen_c::Opts::default().build();
        generator.generate(&mut resolve, world, &mut files).unwrap();
        for (name, contents) in files.iter() {
            // The third is an object file, for a linker that componentizes.
            if !name.ends_with(".o") {
                expected.push((name.to_owned(), contents.to_vec()));
            }
        }
    }
    if std::env::var_os("PACOS_BLESS").is_some() {
        for (name, contents) in &expected {
            fs::write(folder.join(name), contents).unwrap();
        }
    }
    assert_eq!(expected.len(), 6);
    for (name, contents) in expected {
        let found = fs::read(folder.join(&name)).unwrap_or_default();
        assert!(
            found == contents,
            "c/bindings/{name} is not what the contract gives. To write it anew: \
             PACOS_BLESS=1 cargo test -p pacos-plugin --test c_bindings"
        );
    }
}

//! The hub's cache folder, read without asking the hub: its layout is documented by the Python
//! library `huggingface_hub` ("Understand caching"), and every client of the hub shares it.

use std::fs;
use std::path::{Path, PathBuf};

use super::variable;

/// The folder of a repository's files if some of them were fetched before; not all need be there.
pub(super) fn snapshot(repository: &str, revision: Option<&str>) -> Option<PathBuf> {
    snapshot_in(&root()?, repository, revision)
}

fn snapshot_in(root: &Path, repository: &str, revision: Option<&str>) -> Option<PathBuf> {
    let folder = root.join(format!("models--{}", repository.replace('/', "--")));
    let revision = revision.unwrap_or("main");
    // A branch or a tag is a file that holds the commit; a commit stands for itself.
    let commit = fs::read_to_string(folder.join("refs").join(revision))
        .map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    snapshot.is_dir().then_some(snapshot)
}

/// Where the cache is, by the variables that the hub's clients read, in their order.
fn root() -> Option<PathBuf> {
    let home = || {
        variable("HF_HOME")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(variable("HOME")?.join(".cache").join("huggingface")))
    };
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(home()?.join("hub")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_leads_to_its_commit_and_a_commit_to_itself() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--owner--name");
        let commit = model.join("snapshots").join("c0ffee");
        fs::create_dir_all(&commit).unwrap();
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::write(model.join("refs").join("main"), "c0ffee\n").unwrap();
        let find = |revision: Option<&str>| snapshot_in(cache.path(), "owner/name", revision);
        assert_eq!(find(None), Some(commit.clone()));
        assert_eq!(find(Some("c0ffee")), Some(commit));
        assert_eq!(find(Some("other")), None);
        assert_eq!(snapshot_in(cache.path(), "owner/another", None), None);
    }
}

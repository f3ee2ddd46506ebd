//! A hub on loopback: as much of it as a client that speaks plain HTTP meets.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use sha2::{Digest, Sha256};

/// The commit that every branch of every repository of this hub is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does that hubs do not do every day.
#[derive(Clone, Default)]
pub struct Manners {
    /// Status and `x-error-code` of every answer.
    pub refuse: Option<(u16, &'static str)>,
    /// Close the connection after so many bytes of a body longer than that.
    pub cut_after: Option<usize>,
    /// Send whole files whatever range was asked for.
    pub no_ranges: bool,
    /// Serve this in place of the weights.
    pub damaged: Option<Vec<u8>>,
    /// Answer the first question with the place of the repository's new name.
    pub renamed: bool,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub line: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    manners: Mutex<Manners>,
    asked: Mutex<Vec<Asked>>,
    open: AtomicBool,
    here: SocketAddr,
    /// Where large files are: under another name, so that a token must not follow.
    store: String,
}

/// A hub with one repository, `owner/tiny`.
pub struct Hub {
    shared: Arc<Shared>,
}

impl Hub {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let here = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            files,
            manners: Mutex::default(),
            asked: Mutex::default(),
            open: AtomicBool::new(true),
            here,
            store: format!("http://localhost:{}", here.port()),
        });
        let there = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !there.open.load(Ordering::SeqCst) {
                    return;
                }
                let shared = there.clone();
                // A client may close a connection whenever it likes.
                thread::spawn(move || drop(serve(&shared, &stream)));
            }
        });
        Hub { shared }
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.shared.here)
    }

    pub fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().expect("no test panics with it") = manners;
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().expect("no test panics with it"))
    }

    /// From here on nobody answers.
    pub fn stop(&self) {
        self.shared.open.store(false, Ordering::SeqCst);
        // Wakes the listener, which then drops its socket.
        drop(TcpStream::connect(self.shared.here));
        while TcpStream::connect(self.shared.here).is_ok() {
            thread::yield_now();
        }
    }
}

fn serve(shared: &Shared, stream: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let (mut range, mut token) = (None, None);
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "authorization" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let line = request.trim_end_matches(" HTTP/1.1").to_owned();
    let (method, path) = line.split_once(' ').unwrap_or(("", ""));
    shared.asked.lock().expect("no thread panics").push(Asked {
        line: line.clone(),
        range: range.clone(),
        token,
    });
    let manners = shared.manners.lock().expect("no thread panics").clone();
    let answer = answer(shared, &manners, method, path, range.as_deref());
    let mut out = stream;
    write!(out, "HTTP/1.1 {}\r\nConnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    write!(out, "Content-Length: {}\r\n\r\n", answer.body.len())?;
    if method != "HEAD" {
        let most = manners.cut_after.unwrap_or(usize::MAX);
        out.write_all(&answer.body[..answer.body.len().min(most)])?;
    }
    out.flush()
}

#[derive(Default)]
struct Answer {
    status: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(
    shared: &Shared,
    manners: &Manners,
    method: &str,
    path: &str,
    range: Option<&str>,
) -> Answer {
    let refusal = |status: u16, code: &str| Answer {
        status: format!("{status} No"),
        headers: vec![("X-Error-Code", code.to_owned())],
        ..Answer::default()
    };
    if let Some((status, code)) = manners.refuse {
        return refusal(status, code);
    }
    if let Some(file) = path.strip_prefix("/store/") {
        let content = manners.damaged.as_ref().unwrap_or(&shared.files[file]);
        return file_answer(content, range.filter(|_| !manners.no_ranges));
    }
    if manners.renamed && path.contains("owner/tiny/") {
        return Answer {
            status: "307 Moved".into(),
            headers: vec![("Location", path.replace("owner/tiny/", "owner/small/"))],
            ..Answer::default()
        };
    }
    let path = path.replace("owner/small/", "owner/tiny/");
    if let Some(revision) = path.strip_prefix("/api/models/owner/tiny/revision/") {
        if !["main", "v1", COMMIT].contains(&revision) {
            return refusal(404, "RevisionNotFound");
        }
        let names = shared.files.keys();
        let siblings: Vec<_> = names
            .map(|name| serde_json::json!({"rfilename": name}))
            .collect();
        return Answer {
            status: "200 OK".into(),
            headers: vec![("Content-Type", "application/json".into())],
            body: serde_json::json!({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings})
                .to_string()
                .into_bytes(),
        };
    }
    let Some(file) = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/")) else {
        return refusal(404, "RepoNotFound");
    };
    let Some(content) = shared.files.get(file) else {
        return refusal(404, "EntryNotFound");
    };
    let hash: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let commit = ("X-Repo-Commit", COMMIT.to_owned());
    if file.ends_with(".safetensors") {
        return Answer {
            status: "302 Found".into(),
            headers: vec![
                commit,
                ("Location", format!("{}/store/{file}", shared.store)),
                ("X-Linked-Etag", format!("\"{hash}\"")),
                ("X-Linked-Size", content.len().to_string()),
                ("ETag", "\"of-the-redirect\"".into()),
            ],
            ..Answer::default()
        };
    }
    let mut answer = match method {
        "HEAD" => file_answer(content, None),
        _ => file_answer(content, range.filter(|_| !manners.no_ranges)),
    };
    answer.headers.push(commit);
    // Git's hashes are shorter.
    answer
        .headers
        .push(("ETag", format!("W/\"{}\"", &hash[..40])));
    answer
}

fn file_answer(content: &[u8], range: Option<&str>) -> Answer {
    let begin = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    match begin.and_then(|begin| begin.parse::<usize>().ok()) {
        None => Answer {
            status: "200 OK".into(),
            headers: Vec::new(),
            body: content.to_vec(),
        },
        Some(begin) => Answer {
            status: "206 Partial Content".into(),
            headers: vec![(
                "Content-Range",
                format!("bytes {begin}-{}/{}", content.len() - 1, content.len()),
            )],
            body: content[begin..].to_vec(),
        },
    }
}

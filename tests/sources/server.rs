//! A web server on loopback that answers as a test says, and notes what it was asked.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Path with query.
    pub path: String,
    pub authorisation: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut_after: Option<usize>,
    /// Say nothing of the body's length: it ends with the connection.
    pub unmeasured: bool,
}

impl Answer {
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        Answer {
            status: 200,
            body: body.into(),
            ..Answer::default()
        }
    }

    pub fn status(status: u16) -> Self {
        Answer {
            status,
            ..Answer::default()
        }
    }

    pub fn to(place: impl Into<String>) -> Self {
        Answer::status(307).with("Location", place)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut_after = Some(after);
        self
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

struct Shared {
    handler: Mutex<Arc<Handler>>,
    asked: Mutex<Vec<Asked>>,
    open: AtomicBool,
}

pub struct Server {
    shared: Arc<Shared>,
    here: SocketAddr,
}

impl Server {
    pub fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let here = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            handler: Mutex::new(Arc::new(handler)),
            asked: Mutex::default(),
            open: AtomicBool::new(true),
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
        Server { shared, here }
    }

    pub fn port(&self) -> u16 {
        self.here.port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.here)
    }

    pub fn behave(&self, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        *self.shared.handler.lock().expect("no holder panics") = Arc::new(handler);
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().expect("no holder panics"))
    }

    /// The paths of what was asked since the last time.
    pub fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).collect()
    }

    /// From here on nobody answers.
    pub fn stop(&self) {
        self.shared.open.store(false, Ordering::SeqCst);
        // Wakes the listener, which then drops its socket.
        drop(TcpStream::connect(self.here));
        while TcpStream::connect(self.here).is_ok() {
            thread::yield_now();
        }
    }
}

fn serve(shared: &Shared, stream: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut authorisation = None;
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorisation = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let asked = Asked {
        path,
        authorisation,
    };
    let noted = &shared.asked;
    noted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked.clone());
    let handler = shared.handler.lock().expect("no holder panics").clone();
    let answer = handler(&asked);
    let mut out = stream;
    write!(
        out,
        "HTTP/1.1 {} As asked\r\nConnection: close\r\n",
        answer.status
    )?;
    for (name, value) in &answer.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    if !answer.unmeasured {
        write!(out, "Content-Length: {}\r\n", answer.body.len())?;
    }
    write!(out, "\r\n")?;
    let most = answer.cut_after.unwrap_or(usize::MAX);
    out.write_all(&answer.body[..answer.body.len().min(most)])?;
    out.flush()
}

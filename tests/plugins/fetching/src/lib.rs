//! A filter that asks a server about every candidate, for tests of what plugins may send.

use pacos_plugin::{
    Candidate, Description, Diagnostic, Error, Filter, Host, HttpHeader, HttpRequest, Payload,
    Plugin, Verdict, schemars,
};

/// The filter.
pub struct Fetching(Config);

/// Whom it asks, and what.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// An address; `{}` in it becomes the first letter of the instruction.
    url: String,
    /// Headers of the request.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Sent with POST, where there is one.
    body: Option<String>,
}

impl Plugin for Fetching {
    type Config = Config;

    fn describe() -> Description {
        Description::new("fetching", "0.1.0").capability("http:*")
    }

    fn configure(config: Config) -> Result<Self, Vec<Diagnostic>> {
        Ok(Fetching(config))
    }
}

impl Fetching {
    fn request(&self, candidate: &Candidate) -> HttpRequest {
        let first = match &candidate.payload {
            Payload::Task(task) => task.instruction.chars().next(),
            Payload::Chat(_) => None,
        };
        let first = first.filter(char::is_ascii_alphabetic).unwrap_or('-');
        let url = self.0.url.replace("{}", &first.to_string());
        let mut request = match &self.0.body {
            Some(body) => HttpRequest::post(url, body.clone()),
            None => HttpRequest::get(url),
        };
        let headers = self.0.headers.iter().cloned();
        request.headers = headers
            .map(|(name, value)| HttpHeader { name, value })
            .collect();
        request
    }
}

impl Filter for Fetching {
    fn judge(&mut self, batch: Vec<Candidate>, host: &dyn Host) -> Result<Vec<Verdict>, Error> {
        let requests: Vec<_> = batch.iter().map(|one| self.request(one)).collect();
        let responses = host.fetch_many(&requests)?;
        let verdict = |response| match response {
            Ok(pacos_plugin::HttpResponse {
                status: 200, body, ..
            }) => Verdict::keep().score("bytes", body.len() as f64),
            Ok(response) => Verdict::drop(
                format!("status-{}", response.status),
                response.text().into_owned(),
            ),
            Err(Error { code, message, .. }) => Verdict::drop(code, message),
        };
        Ok(responses.into_iter().map(verdict).collect())
    }
}

pacos_plugin::export!(filter Fetching);

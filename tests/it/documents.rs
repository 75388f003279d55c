//! README, docs/ and the contributors' documents: their commands work as written, their links resolve, and
//! their lists are complete.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::clips::clip;
use crate::support::clips::heavy;
use crate::support::process::{err, out, run, spawn};
use crate::support::system::{PATIENCE, Setup, folder};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// README, the contributors' documents and all of docs/, by name.
fn documents() -> Vec<(String, String)> {
    let at_the_root =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", ".github/pull_request_template.md"];
    let mut names: Vec<String> = at_the_root.map(str::to_owned).to_vec();
    for folder in ["docs", "docs/adr"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
            if entry.path().extension().is_some_and(|ending| ending == "md") {
                names.push(format!("{folder}/{}", entry.file_name().into_string().unwrap()));
            }
        }
    }
    names.sort();
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// The code blocks of a document that start with this fence.
fn blocks<'a>(text: &'a str, fence: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (info, body) = after.split_once('\n').unwrap();
        let (block, behind) = body.split_once("\n```").unwrap();
        if info == fence {
            found.push(block);
        }
        rest = behind.trim_start_matches("```");
    }
    found
}

/// Runs commands one after the other, as a user would type them, and returns their output.
async fn typed(commands: &str, dir: &Path, url: &str) -> String {
    typed_where(commands, dir, url, &std::env::var("PATH").unwrap()).await
}

/// Like [`typed`], with programs in `path`.
async fn typed_where(commands: &str, dir: &Path, url: &str, path: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_tcoder")).parent().unwrap();
    let path = format!("{}:{path}", binary.display());
    let mut command = Command::new("bash");
    // A command that fails makes the whole script fail.
    command.args(["-euo", "pipefail", "-c", commands]).current_dir(dir);
    command.env("PATH", path).env("TCODER_URL", url).env_remove("TCODER_TOKEN");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    let output = ended.expect("the commands do not end").unwrap();
    assert!(output.status.success(), "{}\n{}", out(&output), err(&output));
    out(&output)
}

#[tokio::test]
async fn api_document_commands_work() {
    let (system, dir) = (Setup::default().start().await, folder("document"));
    std::fs::copy(clip(), dir.join("holiday.mov")).unwrap();
    std::fs::copy(heavy(), dir.join("large.mov")).unwrap();
    let text = read("docs/api.md");
    let said = typed(&blocks(&text, "sh").join("\n"), &dir, &system.url).await;

    assert!(said.contains("event: job") && said.contains("\"status\":\"completed\""), "{said}");
    assert!(said.contains("\"quality\": \"360p\"") && said.contains("outputQualities[0]"), "{said}");
    // Uses the same Idempotency-Key twice.
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.windows(2).any(|pair| pair[0] == pair[1] && pair[0].len() == 36), "{said}");
    // Verified with another implementation of HMAC than openssl's.
    assert!(said.contains("v1,26rxDpLz1CRY127TZEIAlkFgH7gSqfgTOXvqezsCceU="), "{said}");
    let jobs = system.get("/api/jobs?limit=100").await.body;
    let jobs = jobs["jobs"].as_array().unwrap();
    let find =
        |name: &str| jobs.iter().find(|job| job["filename"] == name).unwrap()["jobId"].as_str().unwrap();
    let large = system.completed(find("large.mov")).await;
    assert_eq!(large["source"]["size"], std::fs::metadata(heavy()).unwrap().len());
    let stills = system.completed(find("holiday.mov")).await;
    assert!(stills["poster"]["url"].is_string() && stills["storyboard"]["url"].is_string(), "{stills:#}");
    system.stop().await;
}

/// The generated clients of the OpenAPI document, generated, compiled and run as documented.
#[tokio::test]
async fn api_document_generated_clients_work() {
    let installed = crate::api_clients::installed().await;
    let variable = |name: &str| &installed.iter().find(|(known, _)| known == name).unwrap().1;
    let (system, dir) = (crate::support::system::shared().await, folder("document"));
    std::fs::copy(clip(), dir.join("holiday.mov")).unwrap();
    // Has the same effect as `npm install` there.
    std::os::unix::fs::symlink(variable("NODE_MODULES"), dir.join("node_modules")).unwrap();
    let text = read("docs/api.md");
    for (fence, name) in [("ts", "client.mts"), ("python", "client.py")] {
        std::fs::write(dir.join(name), blocks(&text, fence)[0]).unwrap();
    }
    let commands = blocks(&text, "sh client").join("\n");
    let said = typed_where(&commands, &dir, &system.url, variable("PATH")).await;
    let completed: Vec<&str> = said.lines().filter(|line| line.starts_with("completed")).collect();
    assert_eq!(completed.len(), 2, "{said}");
    for line in completed {
        assert!(line.contains("360p") && line.contains("http://"), "{said}");
    }
}

#[tokio::test]
async fn operations_document_commands_work() {
    let (system, dir) = (Setup::default().start().await, folder("document"));
    let options =
        serde_json::json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    let id = system.upload(clip(), &options).await;
    system.completed(&id).await;
    // Data that Redis has lost, and data that it still has.
    let forgotten = uuid::Uuid::now_v7();
    std::fs::write(dir.join("lost.txt"), format!("inputs/{forgotten}/film.mov\n")).unwrap();
    std::fs::write(dir.join("tcoder.log"), "{}\n").unwrap();
    let text = read("docs/operations.md");
    let said = typed(&blocks(&text, "sh").join("\n"), &dir, &system.url).await;
    for words in ["machine wanted", "ready", "tcoder_jobs{", "Paused for", "\"workers\":["] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let again = system.ended(&forgotten.to_string()).await;
    assert_eq!((&again["status"], &again["errorCode"]), (&"failed".into(), &"inputNotFound".into()));
    system.stop().await;
}

#[tokio::test]
async fn readme_program_works() {
    let dir = folder("document");
    std::fs::copy(clip(), dir.join("holiday.mov")).unwrap();
    let system = Setup::default().start().await;
    let text = read("README.md");
    let (_, own) = text.split_once("## From your own program").unwrap();
    let program = blocks(own, "sh")[0].replace("http://127.0.0.1:8080", &system.url);
    let said = typed(&program, &dir, &system.url).await;
    let job: Value = serde_json::from_str(&said).unwrap();
    assert!(system.completed(job["jobId"].as_str().unwrap()).await["master"]["url"].is_string());
    system.stop().await;
}

/// The words of `tcoder ...` in a document's commands, which the binary must know.
#[tokio::test]
async fn documents_name_only_existing_subcommands() {
    let mut words = BTreeSet::new();
    for (_, text) in documents() {
        for block in ["sh", "sh cluster"].iter().flat_map(|fence| blocks(&text, fence)) {
            for line in block.lines() {
                // The commands of the plugin of kubectl are its own.
                let line = line.replace("kubectl tcoder ", "");
                let called =
                    line.split("tcoder ").skip(1).filter_map(|rest| rest.split([' ', ')', ';']).next());
                let plain = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_lowercase());
                words.extend(called.filter(plain).map(str::to_owned));
            }
        }
    }
    assert!(words.len() >= 7, "{words:?}");
    for word in words {
        let known = run(&[&word, "--help"], &[], &folder("document")).await;
        assert!(known.status.success(), "tcoder {word}: {}", err(&known));
    }
}

/// The targets of `make ...` in a document's code, which the Makefile must have.
#[test]
fn documents_name_only_existing_make_targets() {
    let makefile = read("Makefile");
    let mut found = BTreeSet::new();
    for (name, text) in documents() {
        for line in text.split('`').skip(1).step_by(2).flat_map(str::lines) {
            let command = line.trim().strip_prefix("make ");
            let Some(target) = command.and_then(|rest| rest.split_whitespace().next()) else { continue };
            assert!(makefile.contains(&format!("\n{target}:")), "{name}: make {target}");
            found.insert(target.to_owned());
        }
    }
    assert!(found.len() >= 5, "{found:?}");
}

#[test]
fn document_links_and_paths_exist() {
    let heading = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -".contains(*c))
            .collect::<String>()
            .replace(' ', "-")
    };
    let mut links = 0;
    for (name, text) in documents() {
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target: PathBuf = match file {
                "" => root().join(&name),
                file => root().join(&name).parent().unwrap().join(file),
            };
            assert!(target.exists(), "{name}: {link}");
            if !place.is_empty() {
                let there = std::fs::read_to_string(&target).unwrap();
                assert!(there.lines().any(|l| l.starts_with('#') && heading(l) == place), "{name}: {link}");
            }
        }
        // File names in the text.
        for word in text.split('`').skip(1).step_by(2) {
            let folders =
                ["src/", "hack/", "manifests/", "tests/", "web/", "docs/", "edge/", "examples/", "benches/"];
            let is_path =
                folders.iter().any(|folder| word.starts_with(folder) && !word.contains([' ', '*', '<']));
            if is_path && word != "edge/build" {
                assert!(root().join(word).exists(), "{name} names {word}");
            }
        }
    }
    assert!(links > 15, "{links}");
}

#[test]
fn operations_document_explains_exactly_the_alerts() {
    let rules = read("manifests/overlays/monitoring/prometheusrule.yaml");
    let raised: BTreeSet<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    let text = read("docs/operations.md");
    let explained: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix("### ")).collect();
    assert!(raised.len() >= 7);
    assert_eq!(raised, explained);
}

#[test]
fn documents_explain_every_reason_problem_and_error_code() {
    let operations = read("docs/operations.md");
    let source = read("src/controller/fleet/condition.rs");
    let (_, reasons) = source.split_once("pub const fn reason").unwrap();
    let (reasons, _) = reasons.split_once("pub fn message").unwrap();
    let mut count = 0;
    for reason in reasons.split('"').skip(1).step_by(2) {
        assert!(operations.contains(&format!("`{reason}`")), "{reason}");
        count += 1;
    }
    assert!(count >= 14, "{count}");

    let api = read("docs/api.md");
    let contract: Value = serde_json::from_str(&read("web/openapi.json")).unwrap();
    let codes = contract["components"]["schemas"]["ErrorCode"]["enum"].as_array().unwrap();
    assert!(codes.len() >= 13);
    for code in codes {
        let code = code.as_str().unwrap();
        assert!(api.contains(&format!("`{code}`")), "{code}");
    }
    for (_, answer) in contract["components"]["responses"].as_object().unwrap() {
        for kind in answer["description"].as_str().unwrap().split('`').filter(|w| w.starts_with("/problems/"))
        {
            assert!(api.contains(&format!("`{kind}`")), "{kind}");
        }
    }
    for field in contract["components"]["schemas"]["JobRequest"]["properties"].as_object().unwrap().keys() {
        assert!(api.contains(&format!("`{field}`")), "{field}");
    }
}

//! The command and its environment: locks, signals, permissions, limits, terminals.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gelora::files::OutputLock;

use crate::cli::{export, gelora, mendable, write_rows};
use crate::runtime::library;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gelora");

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An extraction that runs until it is stopped, returned once it has begun to write.
fn long_extraction(folder: &Path, out: &Path) -> Child {
    let data = folder.join("many.tsv");
    write_rows(&data, 60_000);
    let mut command = Command::new(PROGRAM);
    command.arg("extract").arg(export("tiny_encoder")).arg("--data").arg(&data).args(["--text", "sentence"]);
    command.args(["--device", "cpu", "--threads", "1", "-q", "-o"]).arg(out);
    let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !out.join("shard-00000").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn signal(child: &Child, number: i32) {
    // SAFETY: a signal to a child of this process that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
}

/// Exit code and stderr of a child that has ended.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn one_command_at_a_time_writes_a_folder() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/store");
    let child = long_extraction(folder.path(), &out);
    let rows = folder.path().join("few.tsv");
    write_rows(&rows, 60);
    let (model, data) = (export("tiny_encoder"), text(&rows).to_owned());
    let second = mendable(&["extract", text(&model), "--data", &data, "--text", "sentence", "-o", text(&out), "-q"]);
    for word in
        ["is being written by another process", "gelora extract ", &format!("process {}", child.id()), "since 2"]
    {
        assert!(second.contains(word), "{second}");
    }
    // A killed process holds no lock.
    signal(&child, libc::SIGKILL);
    assert_eq!(ended(child).0, None);
    let mut again = gelora();
    again.arg("extract").arg(&model).arg("--data").arg(&rows).args(["--text", "sentence", "--overwrite", "-q", "-o"]);
    again.arg(&out).assert().success();
    let left: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store"], "the lock goes with its command");
}

/// Every command that writes, with its output at the end.
#[test]
fn every_output_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    write_rows(&folder.path().join("rows.tsv"), 60);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/plan_1.json"), path("plan.json")).unwrap();
    let (plain, model) = (export("tiny_encoder_plain"), export("tiny_encoder"));
    let (plain, model, data, plan) = (text(&plain), text(&model), &*path("rows.tsv"), &*path("plan.json"));
    let out = &*path("out");
    let page = &*path("page.html");
    let points = &*path("points.npy");
    let predictions = &*path("predictions.csv");
    let config = path("config.toml");
    let toml =
        format!("[model]\npath = '{model}'\n[data]\ntask = 'cola'\ntrain = '{data}'\n[output]\nfolder = '{out}'\n");
    fs::write(&config, toml).unwrap();
    let store = format!("{out}/store");
    let mut commands: Vec<(Vec<&str>, &str)> = vec![
        (vec!["plan", model, "--data", data, "--task", "cola", "-o", out], out),
        (vec!["plan", model, "--data", data, "--task", "cola", "-o", out], &store),
        (vec!["extract", model, "--data", data, "--task", "cola", "-o", out], out),
        (vec!["expose", plain, "-o", out], out),
        (vec!["merge", model, "adapter", "-o", out], out),
        (vec!["report", plan, "-o", page], page),
        (vec!["manifold", "ball", "-o", points], points),
        (vec!["evaluate", model, "--data", data, "--task", "cola", "--predictions", predictions], predictions),
    ];
    if cfg!(feature = "train") {
        commands.push((vec!["train", model, "--plan", plan, "--data", data, "--task", "cola", "-o", out], out));
        commands.push((vec!["run", &config], out));
        commands.push((vec!["run", &config], &store));
    }
    for (command, output) in commands {
        let lock = OutputLock::take(Path::new(output), "gelora test").unwrap();
        let line = mendable(&command);
        let expected =
            format!("{output} is being written by another process: `gelora test` (process {}", std::process::id());
        assert!(line.contains(&expected), "{command:?}: {line}");
        drop(lock);
    }
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.toml", "plan.json", "rows.tsv"], "nothing was written");
}

#[test]
fn signals_that_end_a_job_stop_as_ctrl_c_does() {
    if library().is_none() {
        return;
    }
    // Tests that were started by `nohup` would pass on that hangups are ignored.
    // SAFETY: the default is valid for every signal.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("store");
        let child = long_extraction(folder.path(), &out);
        // Slurm and a closing terminal send several at once.
        signal(&child, number);
        signal(&child, number);
        let (code, said) = ended(child);
        assert_eq!(code, Some(3), "signal {number}: {said}");
        assert!(said.contains("run the same command again"), "{said}");
        let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
        assert!(manifest.contains("\"complete\": false"));
    }
}

#[test]
fn a_command_under_nohup_outlives_its_terminal() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 20_000);
    let script = format!(
        "trap '' HUP; exec {PROGRAM} extract {} --data {} --text sentence --device cpu --threads 1 -q -o {}",
        export("tiny_encoder").display(),
        data.display(),
        folder.path().join("store").display()
    );
    let child = Command::new("sh").args(["-c", &script]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    while !folder.path().join("store/manifest.json").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, libc::SIGHUP);
    let (code, said) = ended(child);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn files_are_as_the_umask_says() {
    let folder = tempfile::tempdir().unwrap();
    for (umask, file_mode, folder_mode) in [("077", 0o600, 0o700), ("002", 0o664, 0o775), ("022", 0o644, 0o755)] {
        let out = folder.path().join(umask).join("points.npy");
        let script = format!("umask {umask}; exec {PROGRAM} manifold ball -q -o {}", out.display());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // An output that is overwritten is a new file.
        for _ in 0..2 {
            assert!(Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).status().unwrap().success());
            assert_eq!((mode(&out), mode(out.parent().unwrap())), (file_mode, folder_mode), "umask {umask}");
            fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
        }
    }
}

#[test]
fn outputs_that_would_spoil_inputs_are_refused_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let model = path("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(export("tiny_encoder")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), Path::new(&model).join(file.file_name())).unwrap();
    }
    let before: Vec<_> = crate::extraction::contents(folder.path()).into_keys().collect();
    let link = path("link");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    let data = path("rows.tsv");
    write_rows(Path::new(&data), 60);
    let onnx = format!("{model}/model.onnx");
    for (model, out) in [(&model, &model), (&model, &link), (&onnx, &model), (&onnx, &format!("{model}/../model/"))] {
        let line = mendable(&["plan", model, "--data", &data, "--text", "sentence", "-o", out]);
        assert!(line.contains("is the folder of the model"), "{line}");
        let line = mendable(&["extract", model, "--data", &data, "--text", "sentence", "-o", out]);
        assert!(line.contains("is the folder of the model"), "{line}");
        let line = mendable(&["expose", model, "-o", out]);
        assert!(line.contains("shows its 3 hidden states already") || line.contains("is the folder"), "{line}");
        let line = mendable(&["evaluate", model, "--data", &data, "--text", "sentence", "--predictions", out]);
        assert!(line.contains("is a folder, and a file is written"), "{line}");
    }
    let line = mendable(&["evaluate", &model, "--data", &data, "--text", "sentence", "--predictions", &data]);
    assert!(line.contains("is the data and would be overwritten"), "{line}");
    let tokenizer = format!("{model}/tokenizer.json");
    let line = mendable(&["evaluate", &model, "--data", &data, "--text", "sentence", "--predictions", &tokenizer]);
    assert!(line.contains("is the model's tokenizer and would be overwritten"), "{line}");
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/plan_1.json");
    fs::copy(&plan, path("plan.json")).unwrap();
    let line = mendable(&["report", &path("plan.json"), "-o", &path("plan.json")]);
    assert!(line.contains("is the plan and would be overwritten"), "{line}");
    // Below a file, onto a file or a folder of the other kind, over a trained adapter.
    let line = mendable(&["plan", &model, "--data", &data, "--text", "sentence", "-o", &format!("{data}/out")]);
    assert!(line.contains("a part of the path is a file"), "{line}");
    let line = mendable(&["extract", &model, "--data", &data, "--text", "sentence", "-o", &data]);
    assert!(line.contains("is a file, and a folder is written"), "{line}");
    let line = mendable(&["report", &path("plan.json"), "-o", &model]);
    assert!(line.contains("is a folder, and a file is written"), "{line}");
    fs::create_dir(path("adapter")).unwrap();
    fs::write(path("adapter/adapter_model.safetensors"), "").unwrap();
    let line = mendable(&["plan", &model, "--data", &data, "--text", "sentence", "-o", &path("adapter")]);
    assert!(line.contains("holds a trained adapter"), "{line}");
    for name in ["rows.tsv", "plan.json", "link", "adapter/adapter_model.safetensors"] {
        fs::remove_file(path(name)).unwrap();
    }
    let after: Vec<_> = crate::extraction::contents(folder.path()).into_keys().collect();
    assert_eq!(after, before, "nothing was written");
}

#[cfg(feature = "train")]
#[test]
fn training_into_its_inputs_is_refused_first() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 60);
    let (model, plan) = (export("tiny_encoder"), folder.path().join("plan.json"));
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/plan_1.json"), &plan).unwrap();
    for (out, whose) in [(model.as_path(), "model"), (folder.path(), "plan")] {
        let arguments =
            ["train", text(&model), "--plan", text(&plan), "--data", text(&data), "--task", "cola", "-o", text(out)];
        let line = mendable(&arguments);
        assert!(line.contains(&format!("is the folder of the {whose}")), "{line}");
    }
}

#[test]
fn a_folder_that_was_deleted_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mkdir gone; cd gone; rmdir ../gone; exec {PROGRAM} inspect ../model");
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("the current folder cannot be used"), "{said}");
}

#[test]
fn a_memory_limit_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let points = folder.path().join("points.npy");
    gelora()
        .args(["manifold", "ball", "--columns", "64", "--points", "60000", "-q", "-o"])
        .arg(&points)
        .assert()
        .success();
    // The memory that the program and its libraries need differs between builds: the limit is what they need to
    // start, and a little more.
    let limited = |kilobytes: u64, command: &str| {
        let script = format!("ulimit -v {kilobytes}; exec {PROGRAM} {command}");
        Command::new("sh").args(["-c", &script]).env("NO_COLOR", "1").env_remove("RUST_BACKTRACE").output().unwrap()
    };
    let (mut fails, mut starts) = (0, 4_000_000);
    while starts - fails > 10_000 {
        let limit = (fails + starts) / 2;
        match limited(limit, "--version").status.success() {
            true => starts = limit,
            false => fails = limit,
        }
    }
    let mut told = 0;
    for more in [10_000, 20_000, 40_000, 80_000] {
        let output = limited(starts + more, &format!("dimension {} --threads 1 -q", points.display()));
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            continue;
        }
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{more}: {said}");
        assert!(said.starts_with("error: "), "{said}");
        told += u32::from(said.contains("not enough memory") && said.contains("ulimit -v"));
    }
    assert!(told > 0, "no limit was too low");
}

#[test]
fn names_of_others_do_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let steering = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m";
    let clean = |output: std::process::Output| {
        let all = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        let control = all.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert_eq!(control, None, "{all:?}");
        all
    };
    // A plan with such names, and its comparison.
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/plan_1.json");
    let mut plan: serde_json::Value = serde_json::from_slice(&fs::read(stored).unwrap()).unwrap();
    plan["data"]["task"] = steering.into();
    plan["hidden_states"][1]["tensor"] = steering.into();
    plan["blocks"][1]["reason"] = steering.into();
    plan["model"]["producer"] = steering.into();
    let files = ["a", "b"].map(|name| {
        let path = folder.path().join(format!("{name}{steering}.json"));
        fs::write(&path, plan.to_string()).unwrap();
        path
    });
    let page = folder.path().join("page.html");
    for extra in [&["-q"][..], &["--json"]] {
        let output =
            Command::new(PROGRAM).args(["report", "--compare"]).args(&files).args(extra).arg("-o").arg(&page).output();
        let said = clean(output.unwrap());
        assert!(said.contains("owned"), "{said}");
    }
    // A table with such a column, and a missing one.
    let data = folder.path().join("rows.tsv");
    fs::write(&data, format!("{steering}\tlabel\nsome words\t1\n")).unwrap();
    for column in ["sentence", steering] {
        let mut command = Command::new(PROGRAM);
        command.arg("plan").arg(export("tiny_encoder")).arg("--data").arg(&data).args(["--text", column, "-o"]);
        let said = clean(command.arg(folder.path().join("out")).output().unwrap());
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    }
    // An export whose producer has such a name.
    let onnx = folder.path().join("model.onnx");
    let mut bytes = crate::tiny::encoder(crate::tiny::Kind::Good);
    // Of two fields with the same number, the later one counts.
    let producer = steering.as_bytes();
    bytes.extend([0x12, producer.len() as u8]);
    bytes.extend(producer);
    fs::write(&onnx, bytes).unwrap();
    for extra in [&[][..], &["--json"]] {
        let output =
            Command::new(PROGRAM).arg("inspect").arg(&onnx).arg("--no-self-check").args(extra).output().unwrap();
        assert!(clean(output).contains("owned"));
    }
    // An argument that is not an option.
    clean(Command::new(PROGRAM).args(["plan", &format!("--{steering}")]).output().unwrap());
}

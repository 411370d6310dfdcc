//! `docs/exports.md`: families × forms, generated from the outcomes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::examine::{Outcome, Verdict};
use crate::python::repository;

const PAGE: &str = "docs/exports.md";

const HEAD: &str = "\
# Which exports work

Made by `./scripts/test.sh exports` from tiny models with random weights, exported by `scripts/make_fixtures.py`;
`GELORA_UPDATE_DOCS=1` writes this page anew. Every test run examines a part of the table anew: `classic`, `dynamo` and
`float16` of all families, and all forms of `bert`, `llama` and of the families from `xlm` on.

- **P**: gelora finds the blocks, the weights with their checkpoint names, and the hidden states, and these equal those of
  transformers: to 1e-4 of the largest value, in half precision to 2e-2. Where the export does not show its hidden states, the
  residual stream of its graph is taken (`gelora expose`).
- **T**: the training program gives ONNX Runtime's outputs at real tokens and PEFT's gradients, for an adapter on every linear layer of the
  blocks and for the classifier that is trained with them, within the same bounds; where transformers, PEFT or the interpreter of the ONNX project lose more in half precision
  (bfloat16), twice that is allowed.
- **M**: PEFT's adapter, merged by gelora: the merged folder in transformers, the merged export in ONNX Runtime and PEFT's own
  model give the same outputs.
- A number says why not, below. An empty cell: the form does not exist for the family.

- Where graph, checkpoint and configuration do not agree on the blocks, or weights would be left out, `gelora inspect` and
  `gelora plan` refuse the export, and say why.

No family has code of its own. `xlm-roberta` to `falcon` were not planned for; they were tried when everything else was done. The
others after them are what is odd in the wild.
";

const FORMS: &str = "
## Forms

| form | what |
|---|---|
| `classic`, `dynamo` | both exporters of PyTorch 2.11 (operator set 17 and 20), with a head, without hidden states |
| `…-states` | with hidden states as outputs |
| `base` | without a head |
| `opset13` … `dynamo-opset23` | other operator sets |
| `float16`, `float16-base`, `bfloat16` | weights and computation in half precision; adapters and head are trained in float32 beside them |
| `float16-inside` | by ONNX Runtime's converter to float16, inputs and outputs in float32 (`keep_io_types`) |
| `external` | weights in a file beside the `.onnx` |
| `position-ids`, `past` | decoders that take positions, or keys and values of earlier tokens |
| `optimized-0` … `-99` | through ONNX Runtime's transformer optimizer (`com.microsoft` nodes), at every level |
| `int8` | weights quantized by `onnxruntime.quantization.quantize_dynamic` (`reduce_range`: with all 8 bits, products overflow on processors without VNNI) |
| `optimum-O1` … `-O3` | what `optimum-cli export onnx --optimize` does, on attentions as it exports them |
| `genai` | as the builder of onnxruntime-genai writes it in float32 |
";

/// Compares cells of the page with the results for them.
pub fn compare_cells(outcomes: &BTreeMap<String, Outcome>) {
    let stands = stated(&std::fs::read_to_string(repository(PAGE)).expect("the page is there"));
    let differing: Vec<String> = outcomes
        .iter()
        .filter_map(|(name, outcome)| {
            let (letters, notes) = verdicts(outcome);
            let found = [vec![letters], notes].concat();
            let said = stands.get(name);
            (said != Some(&found)).then(|| format!("{name}: {PAGE} says {said:?}, found {found:?}"))
        })
        .collect();
    assert!(
        differing.is_empty(),
        "GELORA_UPDATE_DOCS=1 ./scripts/test.sh exports writes the page anew:\n{}",
        differing.join("\n")
    );
}

/// Letters and reasons by `family/form`, as given in a page.
fn stated(page: &str) -> BTreeMap<String, Vec<String>> {
    let notes: Vec<&str> = page
        .lines()
        .filter_map(|line| line.split_once(". ").filter(|(number, _)| number.parse::<usize>().is_ok()))
        .map(|(_, note)| note)
        .collect();
    let mut rows = page.lines().skip_while(|line| !line.starts_with("| form | ")).take_while(|line| !line.is_empty());
    let split =
        |row: &str| -> Vec<String> { row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    let families = split(rows.next().expect("a table"));
    let cells = rows.skip(1).flat_map(|row| {
        let cells = split(row);
        let form = cells[0].clone();
        families
            .iter()
            .zip(cells)
            .skip(1)
            .map(move |(family, cell)| (format!("{family}/{form}"), cell))
            .collect::<Vec<_>>()
    });
    cells
        .map(|(name, cell)| {
            let letters = cell.chars().take_while(char::is_ascii_alphabetic).collect::<String>();
            let reasons = cell[letters.len()..].split(',').filter_map(|number| number.trim().parse::<usize>().ok());
            let reasons = reasons.map(|number| notes[number - 1].to_owned()).collect();
            (name, [vec![letters], reasons].concat())
        })
        .collect()
}

/// Compares the page with the results, or writes it.
pub fn compare(families: &[String], forms: &[String], outcomes: &BTreeMap<String, Outcome>) {
    let made = page(families, forms, outcomes);
    let path = repository(PAGE);
    if std::env::var_os("GELORA_UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).expect("docs can be written");
        return;
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        stands, made,
        "{PAGE} is not what the exports give today; GELORA_UPDATE_DOCS=1 ./scripts/test.sh exports writes it anew"
    );
}

fn page(families: &[String], forms: &[String], outcomes: &BTreeMap<String, Outcome>) -> String {
    let mut notes: Vec<String> = Vec::new();
    let mut text = HEAD.to_owned();
    let _ = writeln!(text, "\n| form | {} |", families.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(families.len()));
    for form in forms {
        let cells = families.iter().map(|family| match outcomes.get(&format!("{family}/{form}")) {
            Some(outcome) => cell(outcome, &mut notes),
            None => String::new(),
        });
        let _ = writeln!(text, "| {form} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", number + 1);
    }
    text + FORMS
}

/// The letters of what works, and the numbers of the reasons for what does not.
fn cell(outcome: &Outcome, notes: &mut Vec<String>) -> String {
    let (letters, reasons) = verdicts(outcome);
    let numbers: Vec<String> = reasons
        .into_iter()
        .map(|reason| {
            let index = notes.iter().position(|known| *known == reason).unwrap_or_else(|| {
                notes.push(reason);
                notes.len() - 1
            });
            (index + 1).to_string()
        })
        .collect();
    [letters, numbers.join(", ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The letters of what works, and the reasons for what does not, without duplicates.
fn verdicts(outcome: &Outcome) -> (String, Vec<String>) {
    let (mut letters, mut reasons) = (String::new(), Vec::new());
    for (letter, verdict) in [("P", &outcome.plans), ("T", &outcome.trains), ("M", &outcome.merges)] {
        match verdict {
            Verdict::Right(_) => letters.push_str(letter),
            Verdict::Refused(reason) | Verdict::Wrong(reason) => {
                let reason = short(reason);
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
    }
    (letters, reasons)
}

/// A reason without the names of nodes, tensors and files, which differ from export to export.
fn short(reason: &str) -> String {
    let plain = |pattern: &str, with: &str, text: &str| {
        regex::Regex::new(pattern).expect("a pattern").replace_all(text, with).into_owned()
    };
    if reason.contains("Could not find an implementation") {
        return "ONNX Runtime has no CPU kernels for this type: plan on a GPU, or export in float32".into();
    }
    if reason.starts_with("the export holds two stacks") {
        return "the export holds two stacks, an encoder and a decoder: export the encoder alone".into();
    }
    let text = plain(r"^cannot merge into [^:]*: ", "", reason);
    let text = plain(r", `[^`]*` for instance .*?(: `Att[^;]*)?;", ";", &text);
    let text = plain(r": `[^`]*` for instance of [^;]*;", ";", &text);
    let text = plain(r"\b\d+ of \d+ weights", "weights", &text);
    let text = plain(r"^\d+ attentions", "attentions", &text);
    let text = plain(
        r"node `[^`]*` (of block \d+ )?multiplies with `[^`]*`, which",
        "a block multiplies with a constant that",
        &text,
    );
    let text = plain(r"node `[^`]*` uses the operator", "the operator", &text);
    let text = plain(r"/[^ ]*/families/", "", &text);
    let text = plain(r"(ONNX Runtime cannot load) the model of [^:]*:", "$1 it:", &text);
    let text = plain(r" with name '[^']*'", "", &text);
    let text = plain(r"[Nn]ame:'[^']*'", "", &text);
    plain(r"\s+", " ", &text).trim().to_owned()
}

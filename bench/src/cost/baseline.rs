//! Instructions to compare with: a file that is kept with the code.

use super::Cost;
use node::exit::{Exit, Failure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// How much more a case may take, as a share.
    margin: f64,
    /// Instructions per item, by case.
    instructions: BTreeMap<String, u64>,
}

/// What a compiler of another version, or another machine's memory routines, may make of the same code.
const MARGIN: f64 = 0.1;

const HEAD: &str = "# Instructions per item of each case of `anabranch-bench cost`, built by the `dev` profile, and how much more is an error.
# Made anew by: cargo run -p anabranch-bench -- cost --write bench/plans/cost.toml

";

impl Baseline {
    /// What these cases take now.
    pub(super) fn of(costs: &[Cost]) -> Baseline {
        let one = |cost: &Cost| Some((cost.case.to_owned(), cost.instructions?.round() as u64));
        Baseline { margin: MARGIN, instructions: costs.iter().filter_map(one).collect() }
    }

    pub(super) fn read(file: &Path) -> Result<Baseline, Failure> {
        let wrong =
            |error: &dyn ToString| Failure::new(Exit::Config, format!("{}: {}", file.display(), error.to_string()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
        toml::from_str(&text).map_err(|error| wrong(&error))
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|error| Failure::new(Exit::Software, error.to_string()))?;
        let written = std::fs::write(file, format!("{HEAD}{text}"));
        written.map_err(|error| Failure::new(Exit::CannotCreate, format!("{}: {error}", file.display())))
    }

    /// Whether none of these takes more than it may. A case that takes less than it may vary is no error; the file is then to be made anew.
    pub(super) fn compare(&self, costs: &[Cost]) -> Result<(), Failure> {
        let over: Vec<String> = costs.iter().filter_map(|cost| self.excess(cost)).collect();
        if over.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Incomplete, over.join("; "))) }
    }

    fn excess(&self, cost: &Cost) -> Option<String> {
        let now = cost.instructions?;
        let Some(before) = self.instructions.get(cost.case) else {
            return Some(format!("{:?} is not in the file", cost.case));
        };
        let change = now / *before as f64 - 1.0;
        (change > self.margin).then(|| {
            format!(
                "{:?}: {now:.0} instructions a {}, {:.1} % more than {before} (at most {:.0} %)",
                cost.case,
                cost.item,
                change * 100.0,
                self.margin * 100.0
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(instructions: f64) -> Cost {
        Cost { case: "link", item: "packet", nanoseconds: 1.0, instructions: Some(instructions) }
    }

    #[test]
    fn more_than_the_margin_is_an_error_and_less_is_none() {
        let baseline = Baseline::of(&[cost(1000.0)]);
        for fine in [500.0, 1000.0, 1099.0] {
            assert!(baseline.compare(&[cost(fine)]).is_ok(), "{fine}");
        }
        let failure = baseline.compare(&[cost(1101.0)]).unwrap_err();
        assert_eq!(failure.to_string(), "\"link\": 1101 instructions a packet, 10.1 % more than 1000 (at most 10 %)");
        let new = Cost { case: "new", ..cost(1.0) };
        assert_eq!(baseline.compare(&[new]).unwrap_err().to_string(), "\"new\" is not in the file");
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cost.toml");
        let baseline = Baseline::of(&[cost(1234.4)]);
        baseline.write(&file).unwrap();
        assert_eq!(Baseline::read(&file).unwrap(), baseline);
        std::fs::write(&file, "margin = 0.1\nmarrow = 2\n").unwrap();
        assert!(Baseline::read(&file).unwrap_err().to_string().contains("cost.toml"));
    }
}

//! The files of an evaluation: the report, its chart beside it, and the details that are asked for.

use std::path::{Path, PathBuf};

use common::chart::BarChart;
use common::cli::{Destination, OutputFile, quoted_path};
use common::{Error, Result, error};

/// The name of the tool that these files belong to.
const TOOL: &str = "evaluate";

/// What is at the place of a report before an evaluation begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct Existing {
    /// Whether a report that this tool wrote is there.
    pub is_report: bool,
    /// Whether that report is of the same evaluation.
    pub is_same: bool,
}

/// All files of one evaluation, which begin before anything is scored. The report gets its name first: a
/// chart or details beside a report are then known to belong to it.
pub struct Outputs {
    /// The report, whose scratch directory also holds the journal.
    pub report: OutputFile,
    chart: OutputFile,
    details: Option<OutputFile>,
}

impl Outputs {
    /// Begins the files at `report` and `details`, of an evaluation that reads `inputs`. Files that are there
    /// are replaced if `force` says so. The chart, which no option names, is replaced if it belongs to a report.
    pub fn begin(
        report: &Path,
        details: Option<&Path>,
        inputs: &[PathBuf],
        existing: Existing,
        force: bool,
    ) -> Result<Self> {
        let chart = chart_of(report)?;
        if !existing.is_report && chart.symlink_metadata().is_ok() {
            return Err(error!(
                "{} exists, where the chart of {} would be",
                chart.display(),
                report.display()
            )
            .hint("choose another name with -o"));
        }
        let inputs = |more: &[&Path]| -> Vec<PathBuf> {
            inputs.iter().cloned().chain(more.iter().map(|path| path.to_path_buf())).collect()
        };
        let begin = |path: &Path, inputs: &[PathBuf], force| {
            OutputFile::begin(&Destination::file(path, inputs)?, force, TOOL)
        };
        Ok(Self {
            report: begin(report, &inputs(&[]), force || existing.is_same)?,
            chart: begin(&chart, &inputs(&[report]), existing.is_report)?,
            details: details.map(|details| begin(details, &inputs(&[report, &chart]), force)).transpose()?,
        })
    }

    /// Writes all files, and then gives them their names.
    pub fn write(mut self, report: &str, chart: &BarChart, details: &str) -> Result<()> {
        self.report.fill(|path| Ok(fs_err::write(path, report)?))?;
        self.chart.fill(|path| chart.save(path))?;
        if let Some(file) = &mut self.details {
            file.fill(|path| Ok(fs_err::write(path, details)?))?;
        }
        for file in [&mut self.report, &mut self.chart].into_iter().chain(&mut self.details) {
            file.place()?;
        }
        self.details.into_iter().for_each(OutputFile::finish);
        self.chart.finish();
        self.report.finish();
        Ok(())
    }

    /// Writes the chart of a report that is whole, if a killed run has not, and removes what that run left.
    pub fn complete(report: &Path, details: Option<&Path>, chart: &BarChart) -> Result<()> {
        let path = chart_of(report)?;
        if path.symlink_metadata().is_err() {
            let mut file = OutputFile::begin(&Destination::file(&path, &[])?, false, TOOL)?;
            file.fill(|path| chart.save(path))?;
            file.place()?;
            file.finish();
        }
        for path in [report, &path].into_iter().chain(details) {
            OutputFile::discard(&Destination::file(path, &[])?, TOOL);
        }
        Ok(())
    }
}

/// Returns the path of the chart of a report.
pub fn chart_of(report: &Path) -> Result<PathBuf> {
    let chart = report.with_extension("png");
    match chart == report {
        true => Err(Error::usage(format!("{} is the name of the report's chart", report.display()))
            .hint(format_args!("-o {}", quoted_path(&report.with_extension("json"))))),
        false => Ok(chart),
    }
}

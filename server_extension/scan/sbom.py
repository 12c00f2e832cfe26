"""A scan as a software bill of materials: CycloneDX 1.6, with the vulnerabilities that are known."""

from __future__ import annotations

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.impact_analysis import ImpactAnalysisState
from cyclonedx.model.vulnerability import (
    BomTarget,
    Vulnerability,
    VulnerabilityAnalysis,
    VulnerabilityRating,
    VulnerabilitySeverity,
)
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from maestro_core.packages import PYPI, normal_name
from maestro_core.scans import Kind, Package, ScanReport, Severity

_SEVERITY = {
    Severity.HIGH: VulnerabilitySeverity.HIGH,
    Severity.MEDIUM: VulnerabilitySeverity.MEDIUM,
    Severity.LOW: VulnerabilitySeverity.LOW,
}


def cyclonedx(report: ScanReport) -> str:
    """JSON of the packages of a scan, each once, and of what is known against them."""
    components = {_key(package): _component(package) for package in report.packages}
    subject = _subject(report)
    bom = Bom(components=components.values(), metadata=BomMetaData(component=subject))
    bom.register_dependency(subject, components.values())
    for finding in report.findings:
        if finding.kind in (Kind.ADVISORY, Kind.MALWARE):
            affected = [one for one in components.values() if finding.what == f"{one.name} {one.version}"]
            bom.vulnerabilities.add(
                Vulnerability(
                    bom_ref=f"{finding.rule}/{finding.what}",
                    id=finding.rule,
                    description=finding.why,
                    recommendation=finding.todo,
                    ratings=[VulnerabilityRating(severity=_SEVERITY[finding.severity])],
                    affects=[BomTarget(ref=one.bom_ref.value or "") for one in affected],
                    analysis=VulnerabilityAnalysis(state=ImpactAnalysisState.IN_TRIAGE),
                )
            )
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def _subject(report: ScanReport) -> Component:
    return Component(type=ComponentType.APPLICATION, name=f"workspace {report.workspace}", version=report.at)


def _key(package: Package) -> str:
    return f"{package.channel}/{package.name}@{package.version}"


def _component(package: Package) -> Component:
    try:
        name = normal_name(package.name)
    except ValueError:
        name = package.name
    kind = ("pypi", None) if package.channel == PYPI else ("conda", {"channel": package.channel})
    url = PackageURL(type=kind[0], name=name, version=package.version or None, qualifiers=kind[1])
    return Component(
        type=ComponentType.LIBRARY, name=package.name, version=package.version, purl=url, bom_ref=_key(package)
    )

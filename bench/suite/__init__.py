"""Benchmarks of files, trees and repositories; `../run` starts the package."""

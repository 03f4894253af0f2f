"""The benchmarks of files, trees and repositories."""

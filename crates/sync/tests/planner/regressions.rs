//! Failures that random cases have found, each as a named case.

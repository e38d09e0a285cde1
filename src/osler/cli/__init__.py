"""The command line, one module for each verb. Verbs import workflows only when they run, so that `osler --help` is fast."""

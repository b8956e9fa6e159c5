"""What a guarantee is worth: accounting, measures, experiments, records, MLflow and the command line."""

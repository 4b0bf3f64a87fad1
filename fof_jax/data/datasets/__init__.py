"""Built-in datasets: TCGA GBM-LGG and the synthetic phantom."""

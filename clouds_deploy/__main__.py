"""`python -m clouds_deploy` is `clouds-deploy`."""

from clouds_deploy.cli import main

main()

"""The protocols, one file each: routes, bodies, answers, errors. `serving.front.app` has the table of protocols."""

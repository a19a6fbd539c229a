// echo.js in the workers of Node's cluster module, which distributes the connections. Usage: node cluster.js PORT WORKERS
'use strict';
const cluster = require('cluster');

if (cluster.isPrimary) {
  for (let i = 0; i < Number(process.argv[3]); i++) cluster.fork();
} else {
  process.argv.splice(3); // echo.js would take it for a certificate
  require('./echo.js');
}

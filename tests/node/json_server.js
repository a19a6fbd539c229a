// Newline-framed JSON on Node's net module, as its users write it: what gserver's answers are held against.
const net = require('net');

function answer(line) {
  let message;
  try {
    message = JSON.parse(line);
  } catch {
    return { status: 'ERROR', message: 'Invalid JSON' };
  }
  switch (message.type) {
    case 'GREETING':
      return { status: 'OK', reply: `Hello, ${message.name}!` };
    case 'SUM':
      return { status: 'OK', result: message.a + message.b };
    default:
      return { status: 'ERROR', message: 'Unknown type' };
  }
}

const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  let buffered = '';
  socket.setEncoding('utf8');
  socket.on('data', (text) => {
    buffered += text;
    let end;
    while ((end = buffered.indexOf('\n')) >= 0) {
      socket.write(JSON.stringify(answer(buffered.slice(0, end))) + '\n');
      buffered = buffered.slice(end + 1);
    }
  });
  socket.on('end', () => socket.end());
  socket.on('error', () => socket.destroy());
});

server.listen(0, '127.0.0.1', () => console.log(server.address().port));

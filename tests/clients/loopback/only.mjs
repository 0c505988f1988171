// Keeps a Node program on this machine. Other hosts are refused and written down, since a program may try one, fail,
// and say nothing. Every connection, fetch's too, is made by a net.Socket.
import fs from 'node:fs';
import net from 'node:net';

const log = process.env.OUTSIDE_LOG;
const connect = net.Socket.prototype.connect;

function hostOf(args) {
  const options = Array.isArray(args[0]) ? args[0][0] : args[0]; // Node normalises the arguments into an array
  if (typeof options === 'object' && options !== null) return options.path ? null : (options.host ?? 'localhost');
  return typeof args[1] === 'string' ? args[1] : 'localhost';
}

if (log) {
  net.Socket.prototype.connect = function (...args) {
    const host = hostOf(args);
    if (host !== null && !/^(127\.|localhost$|::1$)/.test(host)) {
      fs.appendFileSync(log, `${host}\n`);
      throw new Error(`tests stay on this machine: ${host}`);
    }
    return connect.apply(this, args);
  };
}

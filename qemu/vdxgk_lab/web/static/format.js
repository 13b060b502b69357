// How numbers look: as in the project's reports.

/** An address, in groups of four digits: 0x1_0120_0000. Takes numbers and hexadecimal strings. */
export function address(value) {
  const digits = BigInt(value).toString(16).padStart(8, "0");
  return `0x${digits.replace(/\B(?=(?:.{4})+$)/g, "_")}`;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** A number of bytes, with a decimal where it is not whole. */
export function size(bytes) {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const text = Number.isInteger(value) ? value : value.toFixed(value < 100 ? 1 : 0);
  return `${text} ${UNITS[unit]}`;
}

/** A count, with separators. */
export function count(number) {
  return number.toLocaleString("en");
}

/** "1 run", "256 runs". */
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** The time of day of seconds since 1970, to the millisecond. */
export function clock(seconds) {
  const time = new Date(seconds * 1000);
  const parts = [time.getHours(), time.getMinutes(), time.getSeconds()];
  const text = parts.map((part) => String(part).padStart(2, "0")).join(":");
  return `${text}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

/** The serial number in a handle; its top byte says what it names. */
export function serial(handle) {
  return Number((BigInt(handle) & ((1n << 56n) - 1n)) >> 4n);
}

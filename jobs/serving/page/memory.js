// What this browser remembers: drawn pictures with their receipts, and the files of subjects. Nothing of it is sent.

const MOST = 120; // pictures

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("flexip", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
    request.result.createObjectStore("files", { keyPath: "sha256" });
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

async function ask(store, mode, question) {
  const database = await opened;
  return new Promise((resolve, reject) => {
    const request = question(database.transaction(store, mode).objectStore(store));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** All pictures, the oldest first. A browser that remembers nothing, as in a private window, has none. */
export const pictures = () => ask("pictures", "readonly", (store) => store.getAll()).catch(() => []);

export async function keepPicture(picture) {
  try {
    picture.id = await ask("pictures", "readwrite", (store) => store.add(picture));
    await ask("pictures", "readwrite", (store) => store.delete(IDBKeyRange.upperBound(picture.id - MOST)));
  } catch {
    // it stays on the page until that is closed
  }
}

export const forgetPictures = () => ask("pictures", "readwrite", (store) => store.clear()).catch(() => null);

export const files = () => ask("files", "readonly", (store) => store.getAll()).catch(() => []);

export const keepFile = (file) => ask("files", "readwrite", (store) => store.put(file)).catch(() => null);

export const forgetFile = (sha256) => ask("files", "readwrite", (store) => store.delete(sha256)).catch(() => null);

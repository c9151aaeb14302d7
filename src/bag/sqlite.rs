//! Reading the sqlite3 storage of rosbag2: a table of topics and a table of messages, one row each.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{BagError, Place};

/// Whether a file that begins with these bytes is an sqlite3 database.
pub(super) fn is_sqlite(beginning: &[u8]) -> bool {
    beginning.starts_with(b"SQLite format 3\0")
}

/// A row of the table `topics`, and how many messages it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicRow {
    id: i64,
    pub(super) name: String,
    pub(super) type_name: String,
    pub(super) format: String,
}

/// One open database file.
#[derive(Debug)]
pub(super) struct SqliteFile {
    path: PathBuf,
    connection: Connection,
    file_bytes: u64,
    pub(super) topics: Vec<TopicRow>,
    /// Why it could not be opened as it should.
    damage: Option<String>,
}

impl SqliteFile {
    /// Opens the file; `path` is how errors call it, which is another one for an unpacked file.
    pub(super) fn open(file: &Path, path: &Path) -> Result<Self, BagError> {
        let mut damage = None;
        let opened = connect(file, Access::Plain).or_else(|error| match error.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => connect(file, Access::Immutable),
            Some(ErrorCode::DatabaseCorrupt) => {
                damage = Some(error.to_string());
                connect(file, Access::Damaged)
            }
            _ => Err(error),
        });
        let (connection, topics) = opened.map_err(|error| match (&damage, error.sqlite_error_code()) {
            (Some(why), _) => BagError::damaged(
                path,
                Place::Message(0),
                format!("{why}; the table of topics is lost ({error})"),
            ),
            (None, Some(ErrorCode::NotADatabase)) => BagError::not_a_bag(path, error),
            _ => BagError::unreadable(path, error),
        })?;
        let file_bytes = file.metadata().map_err(|error| BagError::unreadable(path, error))?.len();
        Ok(Self { path: path.to_owned(), connection, file_bytes, topics, damage })
    }

    /// Messages of the topics in log-time order.
    pub(super) fn messages(self, topics: &[String]) -> SqliteMessages {
        let Self { path, connection, file_bytes, topics: rows, damage } = self;
        let topic_of = |id: i64| {
            let name = &rows.iter().find(|row| row.id == id)?.name;
            topics.iter().position(|wanted| wanted == name)
        };
        let mut list = Vec::new();
        let listed = list_messages(&connection, |id, topic_id, time| {
            list.extend(topic_of(topic_id).map(|topic| Row { time, id, topic }));
        });
        let damage = listed.err().map(|error| error.to_string()).or(damage);
        list.sort_by_key(|row| (row.time, row.id));
        list.reverse();
        SqliteMessages { path, connection, file_bytes, list, damage, read: 0, lost: None, data: Vec::new() }
    }
}

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Plain,
    /// As a file that nobody writes, without locks and logs. A recorder's write-ahead log cannot be joined on a
    /// read-only file system, and need not be.
    Immutable,
    /// With what sqlite does for those who repair a schema: it opens a file that is shorter than its header says.
    Damaged,
}

fn connect(file: &Path, access: Access) -> rusqlite::Result<(Connection, Vec<TopicRow>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if access == Access::Immutable {
        Connection::open_with_flags(immutable_address(file), flags | OpenFlags::SQLITE_OPEN_URI)?
    } else {
        Connection::open_with_flags(file, flags)?
    };
    if access == Access::Damaged {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
    }
    let topics = read_topics(&connection)?;
    Ok((connection, topics))
}

fn immutable_address(file: &Path) -> String {
    let mut address = "file:".to_owned();
    for character in file.to_string_lossy().chars() {
        match character {
            '%' => address += "%25",
            '?' => address += "%3f",
            '#' => address += "%23",
            other => address.push(other),
        }
    }
    address + "?immutable=1"
}

fn read_topics(connection: &Connection) -> rusqlite::Result<Vec<TopicRow>> {
    let mut statement =
        connection.prepare("SELECT id, name, type, serialization_format FROM topics ORDER BY id")?;
    let rows = statement.query_map((), |row| {
        Ok(TopicRow { id: row.get(0)?, name: row.get(1)?, type_name: row.get(2)?, format: row.get(3)? })
    })?;
    rows.collect()
}

/// Calls `each` with id, topic id and time of the rows, up to the first that cannot be read.
///
/// In the order of the table, not of time: an index may be damaged or missing, and sqlite reads the large `data` of a
/// row only when asked for it.
fn list_messages(connection: &Connection, mut each: impl FnMut(i64, i64, i64)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT id, topic_id, timestamp FROM messages NOT INDEXED")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        each(row.get(0)?, row.get(1)?, row.get(2)?);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Row {
    time: i64,
    id: i64,
    topic: usize,
}

/// A walk over the messages of one file.
#[derive(Debug)]
pub(super) struct SqliteMessages {
    path: PathBuf,
    connection: Connection,
    file_bytes: u64,
    /// Messages not read yet, the earliest last.
    list: Vec<Row>,
    /// Why the list is not complete.
    damage: Option<String>,
    read: u64,
    /// The first message that could not be read, why, and how many there are.
    lost: Option<(i64, String, u64)>,
    data: Vec<u8>,
}

impl SqliteMessages {
    /// Goes to the next message and returns its topic (index into those asked for) and log time. Rows that cannot be
    /// read are passed over and reported together at the end.
    pub(super) fn advance(&mut self) -> Result<Option<(usize, i64)>, BagError> {
        while let Some(Row { time, id, topic }) = self.list.pop() {
            match self.fetch(id) {
                Ok(()) => {
                    self.read += 1;
                    return Ok(Some((topic, time)));
                }
                Err(why) => self.lost.get_or_insert((id, why, 0)).2 += 1,
            }
        }
        if let Some((id, why, count)) = self.lost.take() {
            let why = format!("{why}; {count} messages could not be read, this is the first");
            return Err(BagError::damaged(&self.path, Place::Row(id), why));
        }
        match self.damage.take() {
            Some(why) => {
                let why = format!("{why}; what the file holds behind it is lost");
                Err(BagError::damaged(&self.path, Place::Message(self.read), why))
            }
            None => Ok(None),
        }
    }

    /// The data of the message that [`Self::advance`] went to.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    fn fetch(&mut self, id: i64) -> Result<(), String> {
        let blob = self.connection.blob_open(c"main", c"messages", c"data", id, true);
        let blob = blob.map_err(|error| error.to_string())?;
        // A length beyond the file must not become an allocation.
        if blob.len() as u64 > self.file_bytes {
            return Err(format!("it claims {} bytes, more than the file has", blob.len()));
        }
        self.data.resize(blob.len(), 0);
        blob.read_at_exact(&mut self.data, 0).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_immutable_file_of_any_name_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("50%? #1.db3");
        let connection = Connection::open(&file).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE topics(id, name, type, serialization_format);
                 INSERT INTO topics VALUES (1, '/a', 'std_msgs/msg/String', 'cdr');",
            )
            .unwrap();
        drop(connection);
        let (_, topics) = connect(&file, Access::Immutable).unwrap();
        assert_eq!((topics.len(), topics[0].name.as_str()), (1, "/a"));
    }
}
